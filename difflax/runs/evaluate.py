"""What measures the images of a workdir or of a checkpoint."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from etils import epath

from difflax.config.embedded import find_workdir
from difflax.config.files import read_workdir
from difflax.core.spelling import choose
from difflax.core.types import UserError
from difflax.evaluation.measurement import Instruments, PromptGroup
from difflax.evaluation.protocols import EvaluationProtocol, clip_features
from difflax.generation.pipeline import Pipeline
from difflax.pretrained.components.clip import load_clip
from difflax.training.runtime.manifest import check_copy


def evaluation(
    workdir: epath.PathLike, prompts: int | None = None, groups: Sequence[str] = ()
) -> tuple[dict[str, Any], EvaluationProtocol, Instruments, list[PromptGroup]]:
    """The resolved config of a workdir with its protocol, what reads its images, and its prompt groups.

    Args:
        prompts: of each group; ``None``: as many as the config says.
        groups: the names of those that are wanted, all where none is named.

    Raises:
        UserError: a config without an evaluation, a number that it does not have, or no such group.
    """
    workdir = find_workdir(workdir)
    experiment = read_workdir(workdir)
    protocol = getattr(experiment, "evaluation", None)
    if protocol is None:
        raise UserError(f"{workdir}: its config has no section 'evaluation', so there is nothing to measure")
    if prompts is not None:
        if not hasattr(protocol, "prompts"):
            raise UserError(f"--prompts={prompts}: config.evaluation.name of this run has a fixed number")
        protocol = dataclasses.replace(protocol, prompts=prompts)
    folder = epath.Path(workdir) / "clip"
    check_copy(folder)
    features = clip_features(load_clip(folder)) if folder.exists() else None
    instruments = Instruments(features=features, judge=protocol.judge())
    made = {group.name: group for group in protocol.groups(experiment.data)}
    chosen = [choose(made, name, "--group") for name in dict.fromkeys(groups or made)]
    return dict(experiment.resolved), protocol, instruments, chosen


def evaluation_of_prompts(
    pipeline: Pipeline, prompts: list[str], clip: epath.PathLike | None
) -> tuple[dict[str, Any], Instruments, list[PromptGroup]]:
    """The configs of a checkpoint, and what measures its images of given prompts: a CLIP's features."""
    features = None if clip is None else clip_features(load_clip(clip), "CLIP")
    configs = pipeline.model.configs
    config = {} if configs is None else configs.files
    groups = [PromptGroup(name="prompts", prompts=tuple(dict.fromkeys(prompts)))]
    return config, Instruments(features=features), groups
