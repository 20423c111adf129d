"""From the sections of a config to objects: with `networks` the only file that knows every concrete class by
name.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from difflax.config.build import build, construct
from difflax.config.networks import NETWORKS
from difflax.core.types import UserError
from difflax.data.sources import SOURCES
from difflax.diffusion.denoisers import NetworkInput
from difflax.diffusion.guidance import (
    CORRECTIONS,
    GUIDANCES,
    Autoguidance,
    Bounds,
    Guidance,
    GuidancePlan,
    PerturbationGuidance,
    ScaleShape,
    TwoConditionGuidance,
)
from difflax.diffusion.loss.losses import PENALTIES
from difflax.diffusion.loss.noises import NOISES
from difflax.diffusion.loss.time_samplers import TIME_SAMPLERS
from difflax.diffusion.loss.weightings import UNCERTAINTIES, WEIGHTINGS
from difflax.diffusion.predictions import PREDICTIONS
from difflax.diffusion.samplers import SAMPLERS
from difflax.diffusion.schedules import SCHEDULES
from difflax.diffusion.time_grids import TIME_GRIDS
from difflax.diffusion.time_grids.run import Repaint, Restart, RunOptions
from difflax.models.autoencoder import AUTOENCODERS, Autoencoder
from difflax.models.autoencoder_kl import DOWN_BLOCK, UP_BLOCK, AutoencoderKLConfig
from difflax.models.perturbation import Perturbation
from difflax.parallel.sharding import MeshShape
from difflax.pretrained.components.autoencoder import read_autoencoder
from difflax.text.clip_config import CLIPConfig
from difflax.text.tokenizer import Tokenizer
from difflax.training.ema import EMA
from difflax.training.loop import TrainingOptions
from difflax.training.optimizers import OPTIMIZERS

AUTOENCODER = "vae"
"""Folder of an autoencoder in a workdir, as in a pipeline folder of diffusers."""

MODELS = (*NETWORKS, "clip", "autoencoder_kl", "pretrained")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenoisingLoss:
    """The fields of ``config.loss`` of a diffusion model, beside its sections.

    Attributes:
        caption_dropout, masked: see `Denoising`.
        vlb_weight: of the variational bound, 0.001 in the paper, see `VariationalBound`. A network that is
            trained from scratch then predicts a variance too, which ``ddpm`` can sample with.
    """

    caption_dropout: float = 0.1
    masked: bool = False
    vlb_weight: float = 0.0

    def __post_init__(self):
        if not 0 <= self.caption_dropout <= 1:
            raise ValueError(f"caption_dropout must lie in [0, 1], got {self.caption_dropout}")
        if not 0 <= self.vlb_weight < math.inf:
            raise ValueError(f"vlb_weight must not be negative, got {self.vlb_weight}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextEncoderOptions:
    """``config.text_encoder``: a CLIP folder, or the workdir of a run that trained one, and which state of it
    conditions (see `TextEncoder`).
    """

    path: str
    layer: int = -1
    final_norm: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoencoderOptions:
    """``config.autoencoder`` of a trained one (``autoencoder_kl``): its folder in diffusers' layout, or the
    workdir of a run that trained one.
    """

    path: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoencodingLoss:
    """``config.loss`` of an autoencoder.

    Attributes:
        kl_weight, feature_weight: see `Autoencoding`.
        features: the folder of a CLIP, or the workdir of a run that trained one, whose image tower measures
            the distance of features; empty where ``feature_weight`` is 0.
    """

    kl_weight: float = 1e-6
    feature_weight: float = 0.0
    features: str = ""

    def __post_init__(self):
        for name in ("kl_weight", "feature_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if (self.feature_weight > 0) != bool(self.features):
            raise ValueError("feature_weight and features go together: give both or neither")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerOptions:
    """``config.tokenizer``: see `train_bpe`."""

    vocab_size: int = 1024
    max_length: int = 24


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeakOptions:
    """``config.guidance.weak``: the worse model of autoguidance and perturbation guidance.

    Attributes:
        workdir: of another run, or empty for this one.
        step: the checkpoint, ``None`` for the newest.
        perturbation: of the network, ``None`` for the network as it is.
    """

    workdir: str = ""
    step: int | None = None
    perturbation: Perturbation | None = None


@dataclasses.dataclass(frozen=True)
class Settings:
    """The parts of a config that are the same for every model, built and checked."""

    source: Any
    optimizer: Any
    ema: EMA
    mesh: MeshShape
    options: TrainingOptions
    seed: int


@dataclasses.dataclass(frozen=True)
class Diffusion:
    """The parts of a diffusion model's config, built and checked; nothing is computed yet."""

    autoencoder: Any
    schedule: Any
    prediction_type: Any
    network_input: NetworkInput
    weighting: Any
    penalty: Any
    time_sampler: Any
    noise: Any
    uncertainty: Any
    loss: DenoisingLoss
    text_encoder: TextEncoderOptions
    sampler: Any
    time_grid: Any
    num_steps: int
    options: RunOptions
    guidance: Guidance
    weak: WeakOptions | None


def model_name(config: ConfigDict) -> str:
    name = config.model.get("name") if "model" in config else None
    build({known: lambda **fields: None for known in MODELS}, {"name": name}, "config.model")
    return name


def make_settings(config: ConfigDict) -> Settings:
    """Data, optimizer, average, mesh and options."""
    if isinstance(config.seed, bool) or not isinstance(config.seed, int) or not 0 <= config.seed < 2**32:
        raise UserError(f"config.seed = {config.seed!r} must be a whole number from 0 to 2^32 - 1")
    return Settings(
        source=build(SOURCES, config.data, "config.data"),
        optimizer=build(OPTIMIZERS, config.optimizer, "config.optimizer"),
        ema=construct(EMA, config.ema, "config.ema"),
        mesh=construct(MeshShape, config.mesh, "config.mesh"),
        options=construct(TrainingOptions, config.training, "config.training"),
        seed=config.seed,
    )


def make_diffusion(config: ConfigDict, workdir: epath.PathLike | None = None) -> Diffusion:
    """The parts of a diffusion model's config; a ``workdir`` may hold copies of what the config names."""
    sampler = dict(config.sampler)
    num_steps, grid = sampler.pop("num_steps", 50), sampler.pop("time_grid", {"name": "trailing"})
    if isinstance(num_steps, bool) or not isinstance(num_steps, int) or num_steps < 1:
        raise UserError(f"config.sampler.num_steps = {num_steps!r} must be a whole number, at least 1")
    options = {
        "schedule": sampler.pop("schedule", None),
        "restart": sampler.pop("restart", None),
        "repaint": sampler.pop("repaint", None),
        **{name: sampler.pop(name) for name in ("variance_exploding", "final_t") if name in sampler},
    }
    if options["schedule"] is not None:
        options["schedule"] = build(SCHEDULES, options["schedule"], "config.sampler.schedule")
    if options["restart"] is not None:
        options["restart"] = construct(Restart, options["restart"], "config.sampler.restart")
    if options["repaint"] is not None:
        options["repaint"] = construct(Repaint, options["repaint"], "config.sampler.repaint")
    guidance, weak = make_guidance(config.guidance)
    return Diffusion(
        autoencoder=make_autoencoder(config.autoencoder, workdir),
        schedule=build(SCHEDULES, config.schedule, "config.schedule"),
        prediction_type=build(PREDICTIONS, config.prediction, "config.prediction"),
        network_input=construct(NetworkInput, config.get("network_input", {}), "config.network_input"),
        text_encoder=build({"clip": TextEncoderOptions}, config.text_encoder, "config.text_encoder"),
        sampler=build(SAMPLERS, sampler, "config.sampler"),
        time_grid=build(TIME_GRIDS, grid, "config.sampler.time_grid"),
        num_steps=num_steps,
        options=construct(RunOptions, options, "config.sampler"),
        guidance=guidance,
        weak=weak,
        **make_loss(config.loss),
    )


def make_loss(section: ConfigDict) -> dict[str, Any]:
    """``config.loss`` of a diffusion model: its sections' objects, and under ``loss`` its own fields."""
    loss = dict(section)
    parts = {
        "noise": build(NOISES, loss.pop("noise", {"name": "white"}), "config.loss.noise"),
        "uncertainty": build(
            UNCERTAINTIES, loss.pop("uncertainty", {"name": "none"}), "config.loss.uncertainty"
        ),
        "weighting": build(WEIGHTINGS, loss.pop("weighting", {"name": "constant"}), "config.loss.weighting"),
        "penalty": build(PENALTIES, loss.pop("penalty", {"name": "mean_squared"}), "config.loss.penalty"),
        "time_sampler": build(
            TIME_SAMPLERS, loss.pop("time_sampler", {"name": "uniform"}), "config.loss.time_sampler"
        ),
    }
    return {**parts, "loss": build({"denoising": DenoisingLoss}, loss, "config.loss")}


def make_autoencoder(section: ConfigDict, workdir: epath.PathLike | None = None) -> Autoencoder:
    """``config.autoencoder``; of a trained one the weights are not read."""
    kinds = {**AUTOENCODERS, "autoencoder_kl": AutoencoderOptions}
    built = build(kinds, section, "config.autoencoder")
    return (
        read_autoencoder(autoencoder_folder(built, workdir))
        if isinstance(built, AutoencoderOptions)
        else built
    )


def autoencoder_folder(options: AutoencoderOptions, workdir: epath.PathLike | None) -> epath.Path:
    """Where a trained autoencoder lies: in the workdir that uses it, else where the config says.

    Raises:
        UserError: there is none.
    """
    if workdir is not None and (epath.Path(workdir) / AUTOENCODER).is_dir():
        return epath.Path(workdir) / AUTOENCODER
    folder, where = epath.Path(options.path), f"config.autoencoder.path = {options.path!r}"
    if (folder / AUTOENCODER).is_dir():
        return folder / AUTOENCODER
    if (folder / "metrics.jsonl").exists():
        raise UserError(f"{where}: that run has not finished; train it to its last step first")
    if not folder.is_dir():
        raise UserError(
            f"{where}: no such folder; train an autoencoder there first (configs/autoencoder.py), or name the"
            " folder of one"
        )
    return folder


def make_guidance(
    section: Mapping[str, Any] | ConfigDict, where: str = "config.guidance", *, edits_images: bool = False
) -> tuple[Guidance, WeakOptions | None]:
    """``config.guidance``: a guidance's name and fields, and what every guidance may have beside them.

    ``scale`` may be a number, a `ScaleShape` or one number a step; ``interval``: `Bounds`; ``corrections``: a
    tuple of named sections; ``weak``: `WeakOptions`; a perturbation's ``within``: `Bounds`.

    Args:
        where: the section's path, for errors.
        edits_images: whether the model has an image as a condition beside the text.
    """
    fields = dict(section)
    plan: dict[str, Any] = {}
    scale = fields.get("scale")
    if isinstance(scale, ConfigDict | dict):
        plan["scale_over_run"] = construct(ScaleShape, fields.pop("scale"), f"{where}.scale")
    elif isinstance(scale, tuple | list):
        plan["scale_over_run"] = tuple(fields.pop("scale"))
    bounds = fields.pop("interval", None)
    if bounds is not None:
        plan["bounds"] = construct(Bounds, bounds, f"{where}.interval")
    plan["corrections"] = tuple(
        build(CORRECTIONS, correction, f"{where}.corrections[{i}]")
        for i, correction in enumerate(fields.pop("corrections", ()))
    )
    weak = fields.pop("weak", None)
    if weak is not None:
        weak = dict(weak)
        perturbation = weak.get("perturbation")
        if perturbation is not None:
            weak["perturbation"] = construct(Perturbation, perturbation, f"{where}.weak.perturbation")
        weak = construct(WeakOptions, weak, f"{where}.weak")
    within = fields.get("within")
    if within is not None:
        fields["within"] = construct(Bounds, within, f"{where}.within")
    guidance = build(GUIDANCES, fields, where)
    if isinstance(guidance, Autoguidance | PerturbationGuidance) and weak is None:
        raise UserError(f"{where} ({section['name']}) needs {where}.weak, the worse model to go away from")
    if isinstance(guidance, TwoConditionGuidance) and not edits_images:
        raise UserError(
            f"{where}.name = {section['name']!r} needs a model that reads the image it edits (a checkpoint of"
            " InstructPix2Pix): choose another guidance"
        )
    return GuidancePlan(guidance, **plan) if any(plan.values()) else guidance, weak


def autoencoder_config(config: ConfigDict, image_shape: tuple[int, int, int]) -> AutoencoderKLConfig:
    """``config.model`` as an `AutoencoderKLConfig`; channels and size are the data's, the blocks' kinds go
    without saying.
    """
    fields = {key: value for key, value in config.model.items() if key != "name"}
    height, width, channels = image_shape
    levels = len(fields.get("block_out_channels", AutoencoderKLConfig.block_out_channels))
    given = {
        "in_channels": channels,
        "out_channels": channels,
        "sample_size": max(height, width),
        "down_block_types": (DOWN_BLOCK,) * levels,
        "up_block_types": (UP_BLOCK,) * levels,
    }
    built = construct(AutoencoderKLConfig, fields, "config.model (autoencoder_kl)", **given)
    if height % built.downscale or width % built.downscale:
        raise UserError(
            f"config.model.block_out_channels halves an image {len(built.block_out_channels) - 1} times,"
            f" which {height} × {width} pixels of config.data do not allow: use fewer levels"
        )
    return built


def clip_config(
    config: ConfigDict, *, tokenizer: Tokenizer | None = None, vocab_size: int | None = None
) -> CLIPConfig:
    """``config.model`` as a `CLIPConfig`; what the tokenizer decides is filled in."""
    fields = {key: value for key, value in config.model.to_dict().items() if key != "name"}
    length = config.tokenizer.get("max_length", TokenizerOptions.max_length)
    text = {**fields.pop("text_config", {}), "vocab_size": vocab_size, "max_position_embeddings": length}
    if tokenizer is not None:
        backend = tokenizer.backend
        text |= {
            "vocab_size": tokenizer.vocab_size,
            "bos_token_id": backend.bos_token_id,
            "eos_token_id": backend.eos_token_id,
            "pad_token_id": backend.pad_token_id,
        }
    vision = fields.pop("vision_config", {})
    return construct(
        lambda projection_dim=512: CLIPConfig.from_config(
            {"projection_dim": projection_dim, "text_config": text, "vision_config": vision}
        ),
        fields,
        "config.model (clip)",
    )
