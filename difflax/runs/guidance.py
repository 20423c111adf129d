"""Another guidance for a model that is trained: the section of a config, given on the command line."""

import ast
import dataclasses
from collections.abc import Mapping
from typing import Any

from etils import epath

from difflax.runs.diffusion import weak_model
from difflax.config.guidance import WeakOptions, make_guidance
from difflax.generation.pipeline import Pipeline, WeakModel
from difflax.core.types import UserError


def with_guidance(pipeline: Pipeline, text: str, workdir: epath.PathLike | None = None) -> Pipeline:
    """The pipeline with the guidance that ``text`` describes: a name, or a whole section as in
    ``config.guidance``.

    Args:
        workdir: of the run that the pipeline comes from; ``None`` for a checkpoint of the Hub.

    Raises:
        UserError: not such a text, an unknown name or field, or a worse model that is not there.
    """
    section = read_section(text)
    guidance, weak = make_guidance(section, "--guidance", edits_images=pipeline.edits_images)
    fields: dict[str, Any] = {"weak": None, "weak_params": None}
    if weak is not None:
        fields["weak"] = WeakModel(perturbation=weak.perturbation)
        fields |= _other_model(weak, workdir, pipeline)
    return dataclasses.replace(pipeline, guidance=guidance, **fields)


def read_section(text: str) -> Mapping[str, Any]:
    """A guidance's section from the command line: ``apg`` or ``{'name': 'apg', 'scale': 4}``."""
    if text.isidentifier():
        return {"name": text}
    try:
        section = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        section = None
    if not isinstance(section, Mapping):
        example = "\"{'name': 'apg', 'scale': 4.0}\""
        raise UserError(f"--guidance={text}: give a name, or a section as in a config: {example}")
    return section


def _other_model(weak: WeakOptions, workdir: epath.PathLike | None, pipeline: Pipeline) -> dict[str, Any]:
    if workdir is None:
        if weak.workdir or weak.step is not None:
            raise UserError(
                "--guidance: the worse model of a pretrained one is itself with a perturbation: give"
                " weak.perturbation, and neither workdir nor step"
            )
        return {}
    return weak_model(weak, epath.Path(workdir), pipeline.mesh)
