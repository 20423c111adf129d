"""A parsed config: every section as its object, in one frozen dataclass for each kind of run.

These classes are the root of the schema: a field is a section of the config of that name. `parse` is the one
place where a config becomes objects; nothing that comes after it sees a config.
"""

import dataclasses
import functools
import types
from collections.abc import Mapping
from typing import Any, ClassVar

from etils import epath
from ml_collections import ConfigDict

from difflax.config.build import build_section
from difflax.config.guidance import GUIDANCE, GuidanceOptions, check_guidance
from difflax.config.networks import GIVEN, MODULES, NetworkOptions
from difflax.config.pretrained import CacheOptions, PretrainedOptions
from difflax.config.resolve import Override, changes, complete, override
from difflax.config.schema import Section, held, part
from difflax.config.sections import (
    AUTOENCODER_GIVEN,
    CLIP_GIVEN,
    SAMPLING,
    AutoencoderOptions,
    AutoencodingLoss,
    ContrastiveLoss,
    DenoisingLoss,
    SamplingOptions,
    StepsOptions,
    TextEncoderOptions,
    TokenizerOptions,
    fit_autoencoder,
    make_autoencoder_config,
    make_clip_config,
)
from difflax.config.values import to_json, values_of
from difflax.core.spelling import nearest
from difflax.core.types import Conditioning, UserError
from difflax.data.sources import MIXABLE, SOURCES, Source
from difflax.diffusion.denoisers import NetworkInput
from difflax.diffusion.predictions import PREDICTIONS, PredictionType
from difflax.diffusion.schedules import SCHEDULES, NoiseSchedule
from difflax.evaluation.protocols import PROTOCOLS, EvaluationProtocol
from difflax.models.autoencoder import AUTOENCODERS, Autoencoder
from difflax.models.autoencoder_kl import AutoencoderKLConfig
from difflax.models.functional import Functional
from difflax.parallel.sharding import MeshShape
from difflax.pretrained.components.autoencoder import read_autoencoder
from difflax.text.clip_config import CLIPConfig
from difflax.training.ema import EMA
from difflax.training.loop import TrainingOptions
from difflax.training.objectives.denoising import Denoising
from difflax.training.optimizers import OPTIMIZERS, Optimizer
from difflax.training.tunings import TUNINGS, Tuning
from difflax.training.validation import Validation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """What every kind of run has.

    Attributes:
        seed: of every random draw: initial weights, order of the data, noise, times, dropped captions.
        data: images and captions.
        optimizer: of what is trained.
        ema: the average of the parameters, with which images are made.
        mesh: devices along each axis.
        training: steps, batch size, and how often to log, save and draw.
        resolved: all values as JSON has them, which are stored with every checkpoint.
    """

    makes: ClassVar[str] = "images"
    """What its workdir holds, where that makes no images."""

    seed: int = 0
    data: Source = held(Section(of=SOURCES, below={"sources": Section(of=MIXABLE, many=True)}))
    optimizer: Optimizer = part(OPTIMIZERS, "adamw")
    ema: EMA = part(EMA)
    mesh: MeshShape = part(MeshShape)
    training: TrainingOptions = part(TrainingOptions)
    resolved: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)

    def __post_init__(self):
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"config.seed = {self.seed} must be a whole number from 0 to 2^32 - 1")

    @property
    def name(self) -> str:
        """``config.model.name``."""
        return self.resolved["model"]["name"]

    def from_scratch(self, otherwise: str) -> "DiffusionExperiment":
        """Itself, where it is a diffusion model from scratch.

        Raises:
            UserError: it is another kind of run; the error is ``otherwise``.
        """
        raise UserError(otherwise)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffusionExperiment(Experiment):
    """A diffusion model from scratch.

    Attributes:
        text_encoder: what captions and prompts become.
        autoencoder: what stands between images and the network.
        schedule: alpha and sigma of time.
        prediction: what the network's output means.
        network_input: how a noisy image and its level are shown to the network.
        loss: what is trained.
        model: the network.
        sampler: the defaults of a sampling run.
        guidance: the default of a sampling run.
        evaluation: how images are judged; ``None``: they are not.
        validation: the loss of test images while it trains.
        trained_autoencoder: where the autoencoder's weights lie, where it has any.
    """

    text_encoder: TextEncoderOptions = held(Section(of={"clip": TextEncoderOptions}, chosen="clip"))
    autoencoder: Autoencoder = part({**AUTOENCODERS, "autoencoder_kl": AutoencoderOptions}, "identity")
    schedule: NoiseSchedule = part(SCHEDULES, "rectified_flow")
    prediction: PredictionType = part(PREDICTIONS, "flow_velocity")
    network_input: NetworkInput = part(NetworkInput)
    loss: DenoisingLoss = part({"denoising": DenoisingLoss}, "denoising")
    model: NetworkOptions = held(Section(of=MODULES, given=GIVEN, make=NetworkOptions.make))
    sampler: SamplingOptions = held(SAMPLING)
    guidance: GuidanceOptions = held(GUIDANCE)
    evaluation: EvaluationProtocol | None = part(PROTOCOLS, optional=True)
    validation: Validation = part(Validation)
    trained_autoencoder: AutoencoderOptions | None = None

    def __post_init__(self):
        super().__post_init__()
        check_guidance(self.guidance)

    def from_scratch(self, otherwise: str) -> "DiffusionExperiment":
        return self

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Of an image of the data."""
        return self.autoencoder.latent_shape(*self.data.image_shape[:2])

    @functools.cached_property
    def network(self) -> Functional:
        """One for all who run it, so that its programs are compiled once."""
        return self.model.network(self.latent_shape[-1], variance=self.loss.vlb_weight > 0)

    def objective(self, null: Conditioning) -> Denoising:
        """What is trained; ``null``: the condition of a dropped caption."""
        return Denoising(
            model=self.network,
            autoencoder=self.autoencoder,
            schedule=self.schedule,
            prediction_type=self.prediction,
            time_sampler=self.loss.time_sampler,
            weighting=self.loss.weighting,
            penalty=self.loss.penalty,
            network_input=self.network_input,
            caption_dropout=self.loss.caption_dropout,
            null=null,
            noise=self.loss.noise,
            uncertainty=self.loss.uncertainty,
            masked=self.loss.masked,
            vlb_weight=self.loss.vlb_weight,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CLIPExperiment(Experiment):
    """A contrastive CLIP, whose text tower conditions diffusion models.

    Attributes:
        tokenizer: trained on the captions.
        model: both towers; the tokenizer decides the rest, see `clip_with_tokenizer`.
        loss: the contrastive one.
    """

    makes: ClassVar[str] = "a CLIP"

    tokenizer: TokenizerOptions = part(TokenizerOptions)
    model: CLIPConfig = held(
        Section(of={"clip": CLIPConfig}, chosen="clip", given=CLIP_GIVEN, make=make_clip_config)
    )
    loss: ContrastiveLoss = part({"contrastive": ContrastiveLoss}, "contrastive")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoencoderExperiment(Experiment):
    """An autoencoder with a KL term.

    Attributes:
        model: the network; the data decide the rest, see `network_config`.
        loss: what is trained.
    """

    makes: ClassVar[str] = "an autoencoder"

    model: AutoencoderKLConfig = held(
        Section(
            of={"autoencoder_kl": AutoencoderKLConfig},
            chosen="autoencoder_kl",
            given=AUTOENCODER_GIVEN,
            make=make_autoencoder_config,
        )
    )
    loss: AutoencodingLoss = part({"autoencoding": AutoencodingLoss}, "autoencoding")

    @property
    def network_config(self) -> AutoencoderKLConfig:
        """The network for the images of the data."""
        return fit_autoencoder(self.model, self.data.image_shape)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FineTuningExperiment(Experiment):
    """A run that starts from a checkpoint of the Hub's.

    Attributes:
        model: which checkpoint, and how it computes.
        tune: what of it is trained.
        cache: what is computed once.
        loss: what is trained; schedule and prediction type are the checkpoint's own.
        sampler: the defaults of a sampling run.
        guidance: the default of a sampling run.
        evaluation: how images are judged; ``None``: they are not.
        validation: the loss of test images while it trains.
    """

    model: PretrainedOptions = held(Section(of={"pretrained": PretrainedOptions}, chosen="pretrained"))
    tune: Tuning = part(TUNINGS, "full")
    cache: CacheOptions = part(CacheOptions)
    loss: DenoisingLoss = part({"denoising": DenoisingLoss}, "denoising")
    sampler: StepsOptions = part(StepsOptions)
    guidance: GuidanceOptions = held(GUIDANCE)
    evaluation: EvaluationProtocol | None = part(PROTOCOLS, optional=True)
    validation: Validation = part(Validation)

    def __post_init__(self):
        super().__post_init__()
        check_guidance(self.guidance)


KINDS: Mapping[str, type[Experiment]] = types.MappingProxyType(
    {
        **dict.fromkeys(MODULES, DiffusionExperiment),
        "clip": CLIPExperiment,
        "autoencoder_kl": AutoencoderExperiment,
        "pretrained": FineTuningExperiment,
    }
)
"""The kind of run of every ``config.model.name``."""


GIVEN_TO_EXPERIMENTS = ("resolved", "trained_autoencoder")
"""Fields of experiments that are no sections."""


def root(name: Any) -> Section:
    """The schema of a config whose model has that name.

    Raises:
        UserError: there is no such model.
    """
    if name not in KINDS:
        raise UserError(f"config.model.name = {name!r} is unknown{nearest(name, KINDS)}")
    return Section(of=KINDS[name], given=GIVEN_TO_EXPERIMENTS, entry="section")


def resolve(
    config: ConfigDict | Mapping[str, Any], overrides: list[Override] | tuple[Override, ...] = ()
) -> dict[str, Any]:
    """All values of a config, those that it leaves out at their defaults.

    Args:
        overrides: of the command line.

    Raises:
        UserError: for an unknown name or field, a missing one, or a wrong type.
    """
    values = values_of(config)
    try:
        name = values["model"].get("name")
    except (KeyError, AttributeError):
        raise UserError(
            f"config has no section 'model': give config.model.name, one of {', '.join(KINDS)}"
        ) from None
    before = root(name)
    after = root(dict(overrides).get("config.model.name", name))
    given = override(after, changes(before, values, "config"), overrides)
    return complete(root(given["model"].get("name")), given, "config")


def parse(config: ConfigDict | Mapping[str, Any], workdir: epath.PathLike | None = None) -> Experiment:
    """The experiment that a config describes; nothing is computed yet, and no file is read but the
    description of a trained autoencoder.

    Args:
        config: whole or in part, as a file of ``configs/`` or ``config.json`` of a workdir has it.
        workdir: may hold a copy of the autoencoder that the config names.

    Raises:
        UserError: naming the key, its value and what is valid.
    """
    values = resolve(config)

    def make(kind: type[Experiment], sections: dict[str, Any], beside: dict[str, Any]) -> Experiment:
        trained = sections.get("autoencoder")
        if isinstance(trained, AutoencoderOptions):
            autoencoder = read_autoencoder(trained.folder(workdir))
            sections = {**sections, "autoencoder": autoencoder, "trained_autoencoder": trained}
        return kind(**sections, resolved=to_json(values))

    section = dataclasses.replace(root(values["model"]["name"]), make=make)
    return build_section(section, values, "config")
