"""What a family of checkpoints says of itself, and the config files of one of its checkpoints.

A pipeline folder has ``model_index.json`` and a folder a component: ``unet`` or ``transformer``, ``vae``,
``scheduler``, text encoders and tokenizers. A new family is one file beside this one with its `Family`, and
its line in `difflax.pretrained.families.FAMILIES`.
"""

import abc
import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from etils import epath
from flax import nnx

from difflax.core.bounds import Width
from difflax.core.documents import read_json
from difflax.core.kinds import takes_of
from difflax.core.types import Params, UserError
from difflax.diffusion.guidance import ClassifierFreeGuidance, Guidance, TwoConditionGuidance
from difflax.models.autoencoder import Autoencoder
from difflax.models.functional import Functional, functional
from difflax.pretrained.components.autoencoder import KL, AutoencoderKind
from difflax.pretrained.components.scheduler_reading import Sampling
from difflax.pretrained.components.schedulers import read_scheduler
from difflax.pretrained.components.text_encoders import (
    EncoderOptions,
    TextPart,
    save_text_encoders,
)
from difflax.pretrained.format.layout import (
    AUTOENCODER,
    CONFIG,
    DIFFUSERS,
    INDEX,
    MISSING,
    SCHEDULER,
    SCHEDULER_CONFIG,
    check_class,
    class_name,
    components,
    write_model,
)
from difflax.pretrained.format.safetensors import Tensors, write_json
from difflax.pretrained.format.torch_names import check_names, to_torch
from difflax.pretrained.single_file.original import Original
from difflax.text.prompts import PromptEncoder

Config = Mapping[str, Any]

DENOISERS = {"unet": "UNet", "transformer": "transformer"}
"""Where diffusers keeps the denoising network, and what error lines call it."""

TEXT = "text"
"""The condition that every network reads."""


CHANNEL_COUNT = takes_of(Width)


@dataclasses.dataclass(frozen=True)
class Channels:
    """A condition that a network reads as channels beside the noise.

    Attributes:
        more: it has as many channels as a latent, and so many more.
        use: what such a checkpoint is for.
        does: what it does, as a sentence about it goes on.
    """

    more: int
    use: str
    does: str


CHANNELS = {
    "mask": Channels(1, "inpainting", "fills masks in"),
    "picture": Channels(0, "editing", "edits images"),
}
"""By the names of the conditions."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PipelineClass:
    """A class of diffusers' pipelines, of which a folder may say that it is.

    Attributes:
        name: in ``model_index.json``.
        reads: what its network may read beside the noise, of `CHANNELS`; `TEXT`: nothing.
        guidance_scale, num_steps: the defaults of its call in diffusers; ``None``: the family's.
    """

    name: str
    reads: tuple[str, ...] = (TEXT,)
    guidance_scale: float | None = None
    num_steps: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Strength:
    """How far a family's image-to-image pipelines in diffusers noise a picture, each a share of the steps.

    Attributes:
        picture, mask: by default, of a picture and of one with a mask.
        rounds: to whole steps, see `difflax.diffusion.time_grids.sequences.levels_from`.
    """

    picture: float = 0.8
    mask: float = 1.0
    rounds: Literal["down", "up"] = "down"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family(abc.ABC):
    """What is a family's own.

    Attributes:
        title: what error lines call it.
        pipelines: its classes in a ``model_index.json``, the plain one first, and of those whose networks
            read the same beside the noise first the one that a new folder is of.
        denoiser: where diffusers keeps the denoising network, one of `DENOISERS`.
        network: its class, which is called as diffusers calls it.
        sample_size: height and width that it was trained at, in latent pixels, where its config is silent.
        autoencoder: the class of its autoencoder.
        text: its text encoders, in their order.
        guidance_scale, num_steps: the defaults of its pipeline in diffusers.
        strength: of its image-to-image pipelines.
        check_latent: refuses a latent of that height and width, which a network of a config cannot read;
            ``None``: it reads all.
        original: how one file in the original layout holds it; ``None``: not read.
    """

    title: str
    pipelines: tuple[PipelineClass, ...]
    denoiser: str = "transformer"
    network: type[nnx.Module]
    sample_size: int
    autoencoder: AutoencoderKind = KL
    text: tuple[TextPart, ...]
    guidance_scale: float
    num_steps: int
    strength: Strength = Strength()
    check_latent: Callable[[Config, int, int], None] | None = None
    original: Original | None = None

    @property
    def own_options(self) -> set[str]:
        """Those of `EncoderOptions` that one of its text encoders reads, and no other kind does."""
        return {name for part in self.text for name in part.own_options}

    @property
    def channels(self) -> tuple[str, ...]:
        """Of `CHANNELS`, what its networks may read beside the noise."""
        read = {name for pipeline in self.pipelines for name in pipeline.reads}
        return tuple(name for name in CHANNELS if name in read)

    def pipeline(self, configs: "Configs") -> PipelineClass:
        """The class of a folder: its own, or the first whose network reads what its network reads."""
        [kind] = self.channel_conditions(configs) or (TEXT,)
        fitting = {pipeline.name: pipeline for pipeline in self.pipelines if kind in pipeline.reads}
        return fitting.get(class_name(configs.index), next(iter(fitting.values())))

    @abc.abstractmethod
    def text_widths(self, network: Config) -> tuple[int, int | None]:
        """The widths of the text's states and of its pooled vector that a network of this config reads;
        ``None``: it does not say.
        """

    @abc.abstractmethod
    def reads_pooled(self, network: Config) -> bool:
        """Whether a network of this config reads the text's pooled vector."""

    def join(
        self, encoders: Mapping[str, PromptEncoder], configs: "Configs", options: EncoderOptions
    ) -> PromptEncoder:
        """The text encoders that are there, by name, as the network reads them."""
        [encoder] = encoders.values()
        return encoder

    def conditions(self, configs: "Configs", encoder: PromptEncoder, where: str) -> tuple[str, ...]:
        """What the network reads, by the names of the kinds of condition, `TEXT` first.

        Raises:
            UserError: the configs contradict each other; ``where`` they are.
        """
        return (TEXT, *self.channel_conditions(configs))

    def channel_conditions(self, configs: "Configs") -> tuple[str, ...]:
        """Those of them that are channels beside the noise.

        Raises:
            UserError: another number of channels than any of them has.
        """
        file = f"{self.denoiser}/{CONFIG}"
        latent = CHANNEL_COUNT.read(
            configs.autoencoder.get("latent_channels", 4), f"{AUTOENCODER}/{CONFIG}: latent_channels"
        )
        given = CHANNEL_COUNT.read(configs.network.get("in_channels", latent), f"{file}: in_channels")
        known = {latent: ((), "text to image")}
        for name in self.channels:
            known[2 * latent + CHANNELS[name].more] = ((name,), CHANNELS[name].use)
        if given not in known:
            kinds = ", ".join(f"{count} ({use})" for count, (_, use) in known.items())
            raise UserError(
                f"{file}: in_channels = {given} is not supported with latents of {latent}"
                f" channels: only {kinds}"
            )
        return known[given][0]

    def sampling(self, configs: "Configs") -> Sampling:
        """What its scheduler config means."""
        return read_scheduler(configs.scheduler, patch_size=configs.network.get("patch_size", 2))

    def guidance(self, configs: "Configs", conditions: Sequence[str]) -> Guidance:
        """The default of its pipeline in diffusers, for a network that reads ``conditions``."""
        scale = self.pipeline(configs).guidance_scale or self.guidance_scale
        if "picture" in conditions:
            return TwoConditionGuidance(text_scale=scale, image_scale=1.5)
        return ClassifierFreeGuidance(scale=scale)

    def steps(self, configs: "Configs") -> int:
        """The default of its pipeline in diffusers."""
        return self.pipeline(configs).num_steps or self.num_steps

    def zero_null(self, index: Config) -> bool:
        """Whether no prompt is the zero condition, and not that of an empty prompt."""
        return False

    def index(self, configs: "Configs", written: Mapping[str, list]) -> Config:
        """The ``model_index.json`` of a folder that is saved.

        Args:
            written: the lines of its components, `MISSING` for those that are not there.
        """
        others = [name for name in components(configs.index) if name not in written]
        gone = dict.fromkeys(others, MISSING) | {n: e for n, e in written.items() if e == MISSING}
        new = {n: e for n, e in written.items() if n not in configs.index}
        return {**configs.index, "_class_name": self.pipeline(configs).name, **new, **gone}

    def read(self, folder: epath.Path) -> "Configs":
        """The configs of a pipeline folder of the family.

        Raises:
            UserError: a file is missing or damaged.
        """
        return Configs(
            family=self,
            index=read_json(folder / INDEX),
            network=read_json(folder / self.denoiser / CONFIG),
            autoencoder=read_json(folder / AUTOENCODER / CONFIG),
            scheduler=read_json(folder / SCHEDULER / SCHEDULER_CONFIG),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Configs:
    """The JSON files of a pipeline folder as they are, so that saving gives them back.

    Attributes:
        index: ``model_index.json``.
        network: of the denoising network.
    """

    family: Family
    index: Config
    network: Config
    autoencoder: Config
    scheduler: Config

    @property
    def denoiser(self) -> str:
        """Where diffusers keeps the denoising network."""
        return self.family.denoiser

    @property
    def files(self) -> dict[str, Config]:
        """The configs of the index and of the components, by their folders."""
        parts = {self.denoiser: self.network, AUTOENCODER: self.autoencoder, SCHEDULER: self.scheduler}
        return {"index": self.index, **parts}

    def build(
        self, dtype: Any, remat: str = "none", scan_layers: bool = False
    ) -> tuple[Functional, Autoencoder, Sampling]:
        """What they describe: denoising network and autoencoder that compute in ``dtype``, and how to sample.

        Args:
            remat, scan_layers: of the denoising network, see ``difflax.models.blocks``.

        Raises:
            UserError: something that is not supported.
        """
        family = self.family
        check_class(self.network, family.network.__name__, f"{self.denoiser}/{CONFIG}")
        check_class(self.autoencoder, family.autoencoder.name, f"{AUTOENCODER}/{CONFIG}")
        autoencoder = family.autoencoder.from_config(self.autoencoder, dtype)
        family.channel_conditions(self)
        text = json.dumps(self.network, sort_keys=True)
        model = denoiser_network(family.network, text, dtype, remat, scan_layers)
        return model, autoencoder, family.sampling(self)

    def check_weights(self, denoiser: Tensors, autoencoder: Tensors, where: str, dtype: Any) -> None:
        """Whether the tensors of both networks are those of the configs; none is read.

        Args:
            where: for errors.
            dtype: of the networks that will be built, so that their shapes are found once.

        Raises:
            UserError: tensors are missing, left over or of another shape, or a config is not supported.
        """
        model, images, _ = self.build(dtype)
        check_names(denoiser, model.abstract(), f"the {DENOISERS[self.denoiser]} {where}")
        check_names(autoencoder, images.network.abstract(), f"the autoencoder {where}")

    def join(
        self, encoders: Mapping[str, PromptEncoder], options: EncoderOptions, where: str
    ) -> PromptEncoder:
        """The text encoders, by name, as the denoising network reads them.

        Raises:
            UserError: they do not belong to it; ``where`` says which.
        """
        for part in self.family.text:
            if part.name not in encoders:
                continue
            problem = part.problem(encoders[part.name], self.family.title)
            if problem:
                raise UserError(f"{part.name} {where} {problem}")
        encoder = self.family.join(encoders, self, options)
        width, pooled = self.family.text_widths(self.network)
        if width != encoder.width or pooled not in (None, encoder.pooled_width):
            wanted, given = f"{width}", f"{encoder.width}"
            if pooled is not None:
                wanted, given = f"{width} and a vector of {pooled}", f"{given} and {encoder.pooled_width}"
            whose = "its text encoders give" if len(encoders) > 1 else "its text encoder gives"
            raise UserError(
                f"the {DENOISERS[self.denoiser]} {where} reads text of width {wanted}, {whose} {given}: they"
                " do not belong together"
            )
        return encoder

    def save(
        self,
        folder: epath.PathLike,
        *,
        params: Params,
        autoencoder_params: Params,
        text_encoder: PromptEncoder,
    ) -> None:
        """Writes a pipeline folder, which PyTorch diffusers reads."""
        folder, family = epath.Path(folder), self.family
        write_model(folder / self.denoiser, DIFFUSERS, self.network, to_torch(params))
        write_model(folder / AUTOENCODER, DIFFUSERS, self.autoencoder, to_torch(autoencoder_params))
        (folder / SCHEDULER).mkdir(exist_ok=True)
        write_json(folder / SCHEDULER / SCHEDULER_CONFIG, self.scheduler)
        scheduler = class_name(self.scheduler)
        written = {
            SCHEDULER: ["diffusers", scheduler],
            self.denoiser: ["diffusers", family.network.__name__],
            AUTOENCODER: ["diffusers", family.autoencoder.name],
            **save_text_encoders(text_encoder, family.text, folder),
        }
        # Last, so that a folder with an index is whole.
        write_json(folder / INDEX, family.index(self, written))


@functools.cache
def denoiser_network(
    network: type[nnx.Module], config: str, dtype: Any, remat: str = "none", scan_layers: bool = False
) -> Functional:
    """The denoising network of a ``config.json`` (its text) as pure functions, the same object for the same
    arguments.
    """
    fields = json.loads(config)
    return functional(
        lambda rngs: network.from_config(fields, dtype=dtype, remat=remat, scan_layers=scan_layers, rngs=rngs)
    )
