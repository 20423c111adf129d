"""Stable Diffusion 1.x, 2.x and XL checkpoints, in diffusers' layout, in and out.

A pipeline folder has ``model_index.json`` and a subfolder a component: ``unet/``, ``vae/``,
``text_encoder/``, ``tokenizer/`` (XL: also ``text_encoder_2/`` and ``tokenizer_2/``) and ``scheduler/``. All
configs, names and shapes are checked before a tensor is read.
"""

import dataclasses
import functools
import json
from typing import Any, ClassVar

import jax.numpy as jnp
from etils import epath
from flax import nnx
from jax.sharding import Sharding

from difflax.core.types import Params, UserError
from difflax.diffusion.guidance import ClassifierFreeGuidance, Guidance, TwoConditionGuidance
from difflax.models.autoencoder_kl import KLAutoencoder
from difflax.models.functional import Functional, functional
from difflax.models.layers import choose
from difflax.models.size_conditioning import SCORED, numbers_read
from difflax.models.unet import UNet2DConditionModel, reads_pooled
from difflax.pretrained.components.autoencoder import CONFIG, WEIGHTS, newer_names
from difflax.pretrained.components.schedulers import Sampling, read_scheduler
from difflax.pretrained.components.text_encoders import is_xl, load_text_encoders, save_text_encoders
from difflax.pretrained.families.base import Checkpoint
from difflax.pretrained.format.hub import INDEX
from difflax.pretrained.format.safetensors import Tensors, open_weights, read_json, write_file, write_json
from difflax.pretrained.format.torch_names import check_names, from_torch, to_torch
from difflax.text.prompts import PromptEncoder

Config = dict[str, Any]

PIPELINES = dict.fromkeys(
    (
        "StableDiffusionPipeline",
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionInpaintPipeline",
        "StableDiffusionInpaintPipelineLegacy",
        "StableDiffusionInstructPix2PixPipeline",
        "StableDiffusionXLPipeline",
        "StableDiffusionXLImg2ImgPipeline",
    )
)
SCHEDULER_CONFIG = "scheduler_config.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Configs:
    """The JSON files of a pipeline folder as they are, so that saving gives them back.

    Attributes:
        index: ``model_index.json``.
    """

    index: Config
    unet: Config
    vae: Config
    scheduler: Config

    denoiser: ClassVar[str] = "unet"

    def build(
        self, dtype: Any, remat: str = "none", scan_layers: bool = False
    ) -> tuple[Functional, KLAutoencoder, Sampling]:
        """What they describe: UNet and autoencoder that compute in ``dtype``, and how to sample.

        Args:
            remat, scan_layers: of the UNet, see ``difflax.models.blocks``.

        Raises:
            UserError: something that is not supported.
        """
        for name, kind in (("unet", "UNet2DConditionModel"), ("vae", "AutoencoderKL")):
            given = getattr(self, name).get("_class_name", kind)
            if str(given).removeprefix("Flax") != kind:
                raise UserError(f"{name}/{CONFIG}: _class_name = {given!r} is not supported, only {kind!r}")
        autoencoder = KLAutoencoder.from_config(self.vae, dtype)
        model = unet_network(json.dumps(self.unet, sort_keys=True), dtype, remat, scan_layers)
        return model, autoencoder, read_scheduler(self.scheduler)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StableDiffusion(Checkpoint):
    """A checkpoint of Stable Diffusion 1.x, 2.x or XL; its network is a UNet."""

    configs: Configs

    @property
    def reads_pooled(self) -> bool:
        """Whether the UNet reads the text's pooled vector (XL)."""
        return reads_pooled(self.configs.unet)

    @property
    def zero_null(self) -> bool:
        """Where the pipeline's ``force_zeros_for_empty_prompt`` says so (XL's base)."""
        index = self.configs.index
        return is_xl(index) and bool(index.get("force_zeros_for_empty_prompt", True))

    @property
    def refines(self) -> bool:
        """Whether it is a refiner, which goes on from what another model made."""
        return bool(self.configs.index.get("requires_aesthetics_score", False))

    @property
    def guidance(self) -> Guidance:
        """The default of its pipeline in diffusers."""
        if self.edits_images:
            return TwoConditionGuidance(text_scale=7.5, image_scale=1.5)
        return ClassifierFreeGuidance(scale=5.0 if is_xl(self.configs.index) else 7.5)

    @property
    def num_steps(self) -> int:
        """The default of its pipeline in diffusers."""
        return 50

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width that it was trained at, in pixels."""
        size = self.configs.unet.get("sample_size") or 64
        height, width = (size, size) if isinstance(size, int) else size
        return height * self.autoencoder.config.downscale, width * self.autoencoder.config.downscale

    @property
    def fills_masks(self) -> bool:
        """Whether the UNet also reads a mask and the image under it."""
        return channels_beside_noise(self.configs) == self.autoencoder.config.latent_channels + 1

    @property
    def edits_images(self) -> bool:
        """Whether the UNet also reads the image that is edited."""
        return channels_beside_noise(self.configs) == self.autoencoder.config.latent_channels

    def save(self, folder: epath.PathLike) -> None:
        """Writes a pipeline folder, see `save_stable_diffusion`."""
        save_stable_diffusion(
            folder,
            configs=self.configs,
            params=self.params,
            autoencoder_params=self.autoencoder_params,
            text_encoder=self.text_encoder,
        )


@functools.cache
def unet_network(config: str, dtype: Any, remat: str = "none", scan_layers: bool = False) -> Functional:
    """The UNet of a ``unet/config.json`` (its text) as pure functions, the same object for the same
    arguments.
    """
    fields = json.loads(config)

    def make(rngs: nnx.Rngs) -> UNet2DConditionModel:
        return UNet2DConditionModel.from_config(
            fields, dtype=dtype, remat=remat, scan_layers=scan_layers, rngs=rngs
        )

    return functional(make)


def read_configs(folder: epath.PathLike) -> Configs:
    """The configs of a pipeline folder.

    Raises:
        UserError: no pipeline folder, or a pipeline of another class.
    """
    folder = epath.Path(folder)
    if not (folder / INDEX).is_file():
        raise UserError(f"no {INDEX} in {folder}: give a pipeline folder in diffusers' layout")
    index = read_json(folder / INDEX)
    name = str(index.get("_class_name", "")).removeprefix("Flax")
    choose(PIPELINES, name, f"{folder / INDEX}: _class_name")
    return Configs(
        index=index,
        unet=read_json(folder / "unet" / CONFIG),
        vae=read_json(folder / "vae" / CONFIG),
        scheduler=read_json(folder / "scheduler" / SCHEDULER_CONFIG),
    )


def load_stable_diffusion(
    folder: epath.PathLike,
    *,
    dtype: Any = jnp.float32,
    variant: str | None = None,
    shardings: Params | Sharding | None = None,
) -> StableDiffusion:
    """The checkpoint in a pipeline folder.

    Args:
        dtype: of the computation and of the parameters; the autoencoder stays in float32 where float16 would
            overflow (``force_upcast``).
        variant: of the weights, ``"fp16"``.
        shardings: of the UNet's parameters, see `from_torch`.

    Raises:
        UserError: a file that is missing, damaged or not supported, or weights that do not fit.
    """
    folder = epath.Path(folder)
    configs = read_configs(folder)
    model, autoencoder, _ = configs.build(dtype)
    unet = open_weights(folder / "unet", WEIGHTS, variant=variant)
    vae = newer_names(open_weights(folder / "vae", WEIGHTS, variant=variant))
    where = f"in {folder}"
    check_names(unet, model.abstract(), f"the UNet {where}")
    check_names(vae, autoencoder.network.abstract(), f"the autoencoder {where}")
    encoder = load_text_encoders(folder, configs.index, dtype=dtype, variant=variant)
    return assemble(configs, unet, vae, encoder, where, dtype=dtype, shardings=shardings)


def assemble(
    configs: Configs,
    unet: Tensors,
    vae: Tensors,
    encoder: PromptEncoder,
    where: str,
    *,
    dtype: Any,
    shardings: Params | Sharding | None = None,
) -> StableDiffusion:
    """Reads the weights of UNet and autoencoder into a checkpoint; ``where`` is for errors."""
    model, autoencoder, sampling = configs.build(dtype)
    width = configs.unet.get("cross_attention_dim", 1280)
    if width != encoder.width:
        raise UserError(
            f"the UNet {where} reads text of width {width}, its text encoder gives"
            f" {encoder.width}: they do not belong together"
        )
    sizes = count_sizes(configs, encoder.pooled_width, where)
    return StableDiffusion(
        model=model,
        params=from_torch(unet, model.abstract(), f"the UNet {where}", dtype=dtype, shardings=shardings),
        autoencoder=autoencoder,
        autoencoder_params=from_torch(
            vae, autoencoder.network.abstract(), f"the autoencoder {where}", dtype=autoencoder.dtype
        ),
        text_encoder=encoder,
        sampling=sampling,
        sizes=sizes,
        configs=configs,
    )


def channels_beside_noise(configs: Configs) -> int:
    """How many channels the UNet reads beside the noisy latent: none, those of an image that it edits
    (InstructPix2Pix), or those of an image and its mask (inpainting).

    Raises:
        UserError: another number of them.
    """
    channels, latent = configs.unet.get("in_channels", 4), configs.vae.get("latent_channels", 4)
    known = {latent: "text to image", 2 * latent + 1: "inpainting"}
    if not is_xl(configs.index):
        known[2 * latent] = "editing"
    if channels not in known:
        kinds = ", ".join(f"{count} ({kind})" for count, kind in known.items())
        raise UserError(
            f"unet/{CONFIG}: in_channels = {channels} is not supported with latents of {latent} channels:"
            f" only {kinds}"
        )
    return channels - latent


def count_sizes(configs: Configs, pooled_width: int, where: str) -> int:
    """How many numbers the UNet reads beside the pooled vector, see `numbers_read`.

    Raises:
        UserError: the UNet's vector has room for another number, or the pipeline is of the other kind.
    """
    numbers = numbers_read(configs.unet, pooled_width, f"the UNet {where}")
    scored = bool(configs.index.get("requires_aesthetics_score", False))
    if numbers and scored != (numbers == SCORED):
        kind, other = ("a refiner", "false") if numbers == SCORED else ("a base model", "true")
        raise UserError(
            f"the UNet {where} is of {kind}, but {INDEX} has requires_aesthetics_score = {other}: they do not"
            " belong together"
        )
    return numbers


def save_stable_diffusion(
    folder: epath.PathLike,
    *,
    configs: Configs,
    params: Params,
    autoencoder_params: Params,
    text_encoder: PromptEncoder,
) -> None:
    """Writes a pipeline folder, which PyTorch diffusers and `load_stable_diffusion` read.

    There is no safety checker in it; diffusers takes its absence from the index.
    """
    folder = epath.Path(folder)
    entries: dict[str, Any] = {
        "_diffusers_version": configs.unet.get("_diffusers_version", "0.36.0"),
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "scheduler": ["diffusers", configs.scheduler["_class_name"].removeprefix("Flax")],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    if is_xl(configs.index):
        kept = ("_class_name", "force_zeros_for_empty_prompt", "requires_aesthetics_score")
        entries |= {name: configs.index[name] for name in kept if name in configs.index}
    else:
        extra, latent = channels_beside_noise(configs), configs.vae.get("latent_channels", 4)
        kind = {0: "", latent: "InstructPix2Pix", latent + 1: "Inpaint"}[extra]
        entries["_class_name"] = f"StableDiffusion{kind}Pipeline"
        entries |= {"requires_safety_checker": False, "safety_checker": [None, None]}
    for name, config, weights in (("unet", configs.unet, params), ("vae", configs.vae, autoencoder_params)):
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        write_json(place / CONFIG, config)
        write_file(place / f"{WEIGHTS}.safetensors", to_torch(weights))
    (folder / "scheduler").mkdir(exist_ok=True)
    write_json(folder / "scheduler" / SCHEDULER_CONFIG, configs.scheduler)
    entries |= save_text_encoders(text_encoder, configs.index, folder)
    # Last, so that a folder with an index is whole.
    write_json(folder / INDEX, dict(sorted(entries.items())))
