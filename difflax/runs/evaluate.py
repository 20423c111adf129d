"""What measures the images of a workdir or of a checkpoint."""

from typing import Any

from etils import epath

from difflax.config.build import build
from difflax.config.files import read_workdir_config, to_json
from difflax.evaluation.measurement import Instruments, PromptGroup
from difflax.evaluation.protocols import PROTOCOLS, EvaluationProtocol, clip_features
from difflax.config.sections import make_settings
from difflax.generation.pipeline import Pipeline
from difflax.pretrained.components.clip import load_clip
from difflax.core.types import UserError


def evaluation(
    workdir: epath.PathLike,
) -> tuple[dict[str, Any], EvaluationProtocol, Instruments, list[PromptGroup]]:
    """The resolved config of a workdir with its protocol, what reads its images, and its prompt groups."""
    config = read_workdir_config(workdir)
    if "evaluation" not in config:
        raise UserError(f"{workdir}: its config has no section 'evaluation', so there is nothing to measure")
    protocol = build(PROTOCOLS, config.evaluation, "config.evaluation")
    folder = epath.Path(workdir) / "clip"
    features = clip_features(load_clip(folder)) if folder.exists() else None
    instruments = Instruments(features=features, judge=protocol.judge)
    return to_json(config), protocol, instruments, protocol.groups(make_settings(config).source)


def evaluation_of_prompts(
    pipeline: Pipeline, prompts: list[str], clip: epath.PathLike | None
) -> tuple[dict[str, Any], Instruments, list[PromptGroup]]:
    """The configs of a checkpoint, and what measures its images of given prompts: a CLIP's features."""
    features = None if clip is None else clip_features(load_clip(clip), "CLIP")
    configs = pipeline.model.configs
    config = {} if configs is None else configs.files
    groups = [PromptGroup(name="prompts", prompts=tuple(dict.fromkeys(prompts)))]
    return config, Instruments(features=features), groups
