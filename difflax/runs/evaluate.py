"""What measures the images of a workdir or of a checkpoint."""

from typing import Any

from etils import epath

from difflax.config.embedded import find_workdir
from difflax.config.files import read_workdir
from difflax.core.types import UserError
from difflax.evaluation.measurement import Instruments, PromptGroup
from difflax.evaluation.protocols import EvaluationProtocol, clip_features
from difflax.generation.pipeline import Pipeline
from difflax.pretrained.components.clip import load_clip
from difflax.training.runtime.manifest import check_copy


def evaluation(
    workdir: epath.PathLike,
) -> tuple[dict[str, Any], EvaluationProtocol, Instruments, list[PromptGroup]]:
    """The resolved config of a workdir with its protocol, what reads its images, and its prompt groups."""
    workdir = find_workdir(workdir)
    experiment = read_workdir(workdir)
    protocol = getattr(experiment, "evaluation", None)
    if protocol is None:
        raise UserError(f"{workdir}: its config has no section 'evaluation', so there is nothing to measure")
    folder = epath.Path(workdir) / "clip"
    check_copy(folder)
    features = clip_features(load_clip(folder)) if folder.exists() else None
    instruments = Instruments(features=features, judge=protocol.judge())
    return dict(experiment.resolved), protocol, instruments, protocol.groups(experiment.data)


def evaluation_of_prompts(
    pipeline: Pipeline, prompts: list[str], clip: epath.PathLike | None
) -> tuple[dict[str, Any], Instruments, list[PromptGroup]]:
    """The configs of a checkpoint, and what measures its images of given prompts: a CLIP's features."""
    features = None if clip is None else clip_features(load_clip(clip), "CLIP")
    configs = pipeline.model.configs
    config = {} if configs is None else configs.files
    groups = [PromptGroup(name="prompts", prompts=tuple(dict.fromkeys(prompts)))]
    return config, Instruments(features=features), groups
