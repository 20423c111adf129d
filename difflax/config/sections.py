"""The sections of a config that belong to no other room: what picks and joins the classes of the rest."""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any

from etils import epath

from difflax.config.embedded import find_workdir
from difflax.config.schema import Section, part
from difflax.core.bounds import Range, StepCount, Vocabulary
from difflax.core.types import UserError
from difflax.diffusion.loss.losses import PENALTIES, Penalty
from difflax.diffusion.loss.noises import NOISES, Noise
from difflax.diffusion.loss.time_samplers import TIME_SAMPLERS, TimeSampler
from difflax.diffusion.loss.weightings import (
    UNCERTAINTIES,
    WEIGHTINGS,
    LearnedUncertainty,
    NoUncertainty,
    Weighting,
)
from difflax.diffusion.predictions import PredictionType
from difflax.diffusion.samplers import SAMPLERS
from difflax.diffusion.samplers.base import Sampler
from difflax.diffusion.schedules import SCHEDULES, NoiseLevel, NoiseSchedule
from difflax.diffusion.time_grids import TIME_GRIDS, TimeGrid
from difflax.diffusion.time_grids.run import Repaint, Restart, RunOptions
from difflax.models.autoencoder_kl import DOWN_BLOCK, UP_BLOCK, AutoencoderKLConfig
from difflax.pretrained.format.layout import AUTOENCODER
from difflax.text.clip_config import CLIPConfig
from difflax.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenoisingLoss:
    """``config.loss`` of a diffusion model.

    Attributes:
        caption_dropout: the share of examples whose caption is dropped, see `Denoising`.
        masked: whether a part of each image counts, see `Denoising`.
        vlb_weight: of the variational bound, 0.001 in the paper, see `VariationalBound`; a network that is
            trained from scratch then predicts a variance too, which ``ddpm`` can sample with.
        weighting: how much each noise level counts.
        penalty: what an error costs.
        noise: what is mixed with the images.
        uncertainty: of the loss at each noise level, learned or not.
        time_sampler: which times are trained.
    """

    caption_dropout: float = 0.1
    masked: bool = False
    vlb_weight: float = 0.0
    weighting: Weighting = part(WEIGHTINGS, "constant")
    penalty: Penalty = part(PENALTIES, "mean_squared")
    noise: Noise = part(NOISES, "white")
    uncertainty: LearnedUncertainty | NoUncertainty = part(UNCERTAINTIES, "none")
    time_sampler: TimeSampler = part(TIME_SAMPLERS, "uniform")

    def __post_init__(self):
        if not 0 <= self.caption_dropout <= 1:
            raise ValueError(f"caption_dropout must lie in [0, 1], got {self.caption_dropout}")
        if self.vlb_weight < 0:
            raise ValueError(f"vlb_weight must not be negative, got {self.vlb_weight}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextEncoderOptions:
    """``config.text_encoder``, see `TextEncoder`.

    Attributes:
        path: a CLIP folder, the workdir of a run that trained one, or ``embedded``: that of the model that
            comes with difflax.
        layer: the state that conditions: -1 the last, -2 the one before.
        final_norm: whether the last norm is applied to it.
    """

    path: str
    layer: int = -1
    final_norm: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoencoderOptions:
    """``config.autoencoder`` of a trained one (``autoencoder_kl``).

    Attributes:
        path: its folder in diffusers' layout, the workdir of a run that trained one, or ``embedded``: that of
            the model that comes with difflax.
    """

    path: str

    def folder(self, workdir: epath.PathLike | None) -> epath.Path:
        """Where it lies: in the workdir that uses it, else where the config says.

        Raises:
            UserError: there is none.
        """
        if workdir is not None and (epath.Path(workdir) / AUTOENCODER).is_dir():
            return epath.Path(workdir) / AUTOENCODER
        folder, where = epath.Path(find_workdir(self.path)), f"config.autoencoder.path = {self.path!r}"
        if (folder / AUTOENCODER).is_dir():
            return folder / AUTOENCODER
        if (folder / "metrics.jsonl").exists():
            raise UserError(f"{where}: that run has not finished; train it to its last step first")
        if not folder.is_dir():
            raise UserError(
                f"{where}: no such folder; train an autoencoder there first (configs/autoencoder.py), or name"
                " the folder of one"
            )
        return folder


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoencodingLoss:
    """``config.loss`` of an autoencoder.

    Attributes:
        kl_weight: of the divergence from the standard normal, see `Autoencoding`.
        feature_weight: of the distance in features, see `Autoencoding`.
        features: the folder of a CLIP, or the workdir of a run that trained one, whose image tower measures
            the distance of features; empty where ``feature_weight`` is 0.
    """

    kl_weight: float = 1e-6
    feature_weight: float = 0.0
    features: str = ""

    def __post_init__(self):
        for name in ("kl_weight", "feature_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if (self.feature_weight > 0) != bool(self.features):
            raise ValueError("feature_weight and features go together: give both or neither")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContrastiveLoss:
    """``config.loss`` of a CLIP; see `Contrastive`.

    Attributes:
        reconstruction: what the loss of saying each caption again from its vector counts, so that the vector
            keeps words that pictures teach slowly: nats of the contrastive loss to a nat of a caption's
            cross-entropy; 0: nothing.
    """

    reconstruction: Annotated[float, Range(0)] = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerOptions:
    """``config.tokenizer``: see `train_bpe`.

    Attributes:
        vocab_size: tokens, those of single bytes included.
        max_length: tokens a caption, begin and end included.
    """

    vocab_size: Vocabulary = 1024
    max_length: Annotated[int, Range(2, 2**16)] = 24


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """``config.sampler``: a sampler, and the fields that stand beside its own.

    Attributes:
        sampler: who steps from level to level.
        num_steps: of a run.
        time_grid: at which times.
        schedule: the schedule to sample under, if not the one that the network was trained under.
        restart: goes back up and down again; ``None``: never.
        repaint: the same all along a run that makes a part of an image anew; ``None``: never.
        variance_exploding: step in the coordinates of EDM and k-diffusion, ``x / alpha``.
        final_t: where the last step lands: 0 is the data.
    """

    sampler: Sampler
    num_steps: StepCount = 50
    time_grid: TimeGrid = part(TIME_GRIDS, "trailing")
    schedule: NoiseSchedule | None = part(SCHEDULES, optional=True)
    restart: Restart | None = None
    repaint: Repaint | None = None
    variance_exploding: bool = False
    final_t: float = 0.0

    def __post_init__(self):
        check_steps(self.num_steps)

    @classmethod
    def make(cls, sampler: Callable[..., Any], own: dict[str, Any], beside: dict[str, Any]):
        """See `difflax.config.schema.Section`."""
        return cls(sampler=sampler(**own), **beside)

    @property
    def run_options(self) -> RunOptions:
        """What a run does with its time grid."""
        return RunOptions(
            schedule=self.schedule,
            restart=self.restart,
            repaint=self.repaint,
            variance_exploding=self.variance_exploding,
            final_t=self.final_t,
        )

    def levels(self, schedule: NoiseSchedule, prediction_type: PredictionType) -> NoiseLevel:
        """The noise levels of a run of a model trained under ``schedule``.

        Raises:
            UserError: there is no such run.
        """
        try:
            return self.run_options.levels(schedule, self.time_grid, self.num_steps, prediction_type)
        except ValueError as error:
            raise UserError(f"config.sampler: {error}") from error


SAMPLING = Section(
    of=SAMPLERS, chosen="dpmpp_2m", beside=SamplingOptions, given=("sampler",), make=SamplingOptions.make
)


def check_steps(num_steps: int) -> None:
    """Refuses a number of steps that no run has."""
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepsOptions:
    """``config.sampler`` of a run that starts from a checkpoint, whose own sampler it keeps.

    Attributes:
        num_steps: of a run.
    """

    num_steps: StepCount = 50

    def __post_init__(self):
        check_steps(self.num_steps)


AUTOENCODER_GIVEN = (
    *("in_channels", "out_channels", "down_block_types", "up_block_types"),
    *("sample_size", "scaling_factor", "shift_factor", "force_upcast"),
)
"""What a run decides of the autoencoder that it trains."""


def make_autoencoder_config(
    cls: Callable[..., Any], own: dict[str, Any], beside: dict[str, Any]
) -> AutoencoderKLConfig:
    """``config.model`` of an autoencoder; the blocks' kinds go without saying."""
    levels = len(own["block_out_channels"])
    return cls(**own, down_block_types=(DOWN_BLOCK,) * levels, up_block_types=(UP_BLOCK,) * levels)


def fit_autoencoder(config: AutoencoderKLConfig, image_shape: tuple[int, int, int]) -> AutoencoderKLConfig:
    """The autoencoder for images of a shape.

    Raises:
        UserError: it cannot halve them so often.
    """
    height, width, channels = image_shape
    if height % config.downscale or width % config.downscale:
        raise UserError(
            f"config.model.block_out_channels halves an image {len(config.block_out_channels) - 1} times,"
            f" which {height} × {width} pixels of config.data do not allow: use fewer levels"
        )
    return dataclasses.replace(
        config, in_channels=channels, out_channels=channels, sample_size=max(height, width)
    )


CLIP_GIVEN = (
    *("text_config.vocab_size", "text_config.max_position_embeddings", "text_config.pad_token_id"),
    *("text_config.bos_token_id", "text_config.eos_token_id", "text_config.projection_dim"),
    *("vision_config.projection_dim", "vision_config.num_channels"),
)
"""What the tokenizer and the joint space decide of the towers; images have three channels."""


def make_clip_config(cls: Callable[..., Any], own: dict[str, Any], beside: dict[str, Any]) -> CLIPConfig:
    """``config.model`` of a CLIP: both towers end in the joint space."""
    towers = {
        name: dataclasses.replace(own[name], projection_dim=own["projection_dim"])
        for name in ("text_config", "vision_config")
    }
    return cls(**{**own, **towers})


def clip_with_tokenizer(config: CLIPConfig, tokenizer: Tokenizer, max_length: int) -> CLIPConfig:
    """The CLIP that reads what a tokenizer gives."""
    backend = tokenizer.backend
    text = dataclasses.replace(
        config.text_config,
        vocab_size=tokenizer.vocab_size,
        max_position_embeddings=max_length,
        bos_token_id=backend.bos_token_id,
        eos_token_id=backend.eos_token_id,
        pad_token_id=backend.pad_token_id,
    )
    return dataclasses.replace(config, text_config=text)
