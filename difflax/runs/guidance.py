"""Another guidance for a model that is trained: the section of a config, given on the command line."""

import ast
from collections.abc import Mapping
from typing import Any

from etils import epath

from difflax.config.embedded import find_workdir
from difflax.config.guidance import GUIDANCE, GuidanceOptions, WeakOptions, make_guidance
from difflax.config.resolve import read_section as read_options
from difflax.core.types import UserError
from difflax.generation.model import WeakModel
from difflax.generation.pipeline import Pipeline
from difflax.runs.diffusion import weak_model


def with_guidance(pipeline: Pipeline, text: str, workdir: epath.PathLike | None = None) -> Pipeline:
    """The pipeline with the guidance that ``text`` describes: a name, or a whole section as in
    ``config.guidance``.

    Args:
        workdir: of the run that the pipeline comes from; ``None`` for a checkpoint of the Hub.

    Raises:
        UserError: not such a text, an unknown name or field, or a worse model that is not there.
    """
    return with_guidance_section(pipeline, read_section(text), workdir)


def with_guidance_section(
    pipeline: Pipeline,
    section: Mapping[str, Any],
    workdir: epath.PathLike | None = None,
    where: str = "--guidance",
) -> Pipeline:
    """The pipeline with the guidance of a section as ``config.guidance``.

    Args:
        workdir: of the run that the pipeline comes from; ``None`` for a checkpoint of the Hub.
        where: what holds the section, for errors.

    Raises:
        UserError: an unknown name or field, or a worse model that is not there.
    """
    conditions = [condition.name for condition in pipeline.model.conditions]
    guidance, weak = make_guidance(section, where, conditions=conditions)
    return pipeline.with_guidance(guidance, None if weak is None else _other_model(weak, workdir, pipeline))


def read_section(text: str) -> Mapping[str, Any]:
    """A guidance's section from the command line: ``apg`` or ``{'name': 'apg', 'scale': 4}``."""
    if text.isidentifier():
        return {"name": text}
    try:
        section = ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        section = None
    if not GUIDANCE.takes(section):
        example = "\"{'name': 'apg', 'scale': 4.0}\""
        raise UserError(f"--guidance={text}: give a name, or a section as in a config: {example}")
    return section


def check_guidance_text(text: str) -> None:
    """Refuses a text that describes no guidance, whatever the model.

    Raises:
        UserError: as for `with_guidance`.
    """
    read_guidance(read_section(text), "--guidance")


def read_guidance(section: Any, where: str) -> GuidanceOptions:
    """The guidance that a section describes, whatever the model.

    Raises:
        UserError: it describes none.
    """
    return read_options(GUIDANCE, section, where)


def _other_model(weak: WeakOptions, workdir: epath.PathLike | None, pipeline: Pipeline) -> WeakModel | None:
    if workdir is None:
        if weak.workdir or weak.own_snapshot:
            raise UserError(
                "--guidance: the worse model of a pretrained one is itself with a perturbation: give"
                " weak.perturbation, and neither workdir, step nor ema_length"
            )
        return WeakModel(perturbation=weak.perturbation)
    return weak_model(weak, epath.Path(find_workdir(workdir)), pipeline.devices.mesh)
