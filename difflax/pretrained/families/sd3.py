"""Stable Diffusion 3 and 3.5 checkpoints, in diffusers' layout, in and out.

A pipeline folder has ``model_index.json`` and a subfolder a component: ``transformer/``, ``vae/``, three text
encoders and tokenizers (``text_encoder/``, ``text_encoder_2/``, ``text_encoder_3/``, …) and ``scheduler/``.
All configs, names and shapes are checked before a tensor is read.

The transformer reads (Esser et al. 2024, https://arxiv.org/abs/2403.03206, section 4) the states before the
last layer, without a norm, of CLIP-L and OpenCLIP-bigG side by side, filled up with zeros to T5's width, and
after them T5's; and the projected pooled vectors of both CLIPs side by side. T5, the largest part of all, may
be left out; then zeros stand in its place.
"""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
from etils import epath
from flax import nnx
from jax.sharding import Sharding

from difflax.core.types import Params, UserError
from difflax.diffusion.guidance import ClassifierFreeGuidance, Guidance
from difflax.models.autoencoder_kl import KLAutoencoder
from difflax.models.functional import Functional, functional
from difflax.models.mmdit import SD3Transformer2DModel
from difflax.pretrained.components.clip import load_text_encoder, save_text_encoder
from difflax.pretrained.components.schedulers import Sampling, read_scheduler
from difflax.pretrained.components.t5 import load_t5_encoder, save_t5_encoder
from difflax.pretrained.components.text_encoders import PENULTIMATE, has_component
from difflax.pretrained.families.base import Checkpoint
from difflax.pretrained.families.sd import CONFIG, SCHEDULER_CONFIG, WEIGHTS, Config
from difflax.pretrained.format.hub import INDEX
from difflax.pretrained.format.safetensors import Tensors, open_weights, read_json, write_file, write_json
from difflax.pretrained.format.torch_names import check_names, from_torch, to_torch
from difflax.text.encoders import TextEncoder
from difflax.text.joined import JoinedEncoder
from difflax.text.t5_encoder import T5Encoder, ZeroEncoder

PIPELINES = ("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline")
T5_LENGTH = 256
"""Tokens that T5 gives a prompt unless it is told otherwise, as in diffusers."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Configs3:
    """The JSON files of a pipeline folder as they are, so that saving gives them back."""

    index: Config
    transformer: Config
    vae: Config
    scheduler: Config

    denoiser: ClassVar[str] = "transformer"

    def build(
        self, dtype: Any, remat: str = "none", scan_layers: bool = False
    ) -> tuple[Functional, KLAutoencoder, Sampling]:
        """What they describe: transformer and autoencoder that compute in ``dtype``, and how to sample.

        Args:
            remat, scan_layers: of the transformer, see ``difflax.models.blocks``.

        Raises:
            UserError: something that is not supported.
        """
        for name, kind in (("transformer", "SD3Transformer2DModel"), ("vae", "AutoencoderKL")):
            given = getattr(self, name).get("_class_name", kind)
            if given != kind:
                raise UserError(f"{name}/{CONFIG}: _class_name = {given!r} is not supported, only {kind!r}")
        autoencoder = KLAutoencoder.from_config(self.vae, dtype)
        channels, latent = self.transformer.get("in_channels", 16), autoencoder.config.latent_channels
        if channels != latent:
            raise UserError(
                f"transformer/{CONFIG}: in_channels = {channels} is not supported with latents of {latent}"
                f" channels, only {latent}"
            )
        sampling = read_scheduler(self.scheduler, patch_size=self.transformer.get("patch_size", 2))
        model = transformer_network(json.dumps(self.transformer, sort_keys=True), dtype, remat, scan_layers)
        return model, autoencoder, sampling


@dataclasses.dataclass(frozen=True, kw_only=True)
class StableDiffusion3(Checkpoint):
    """A checkpoint of Stable Diffusion 3 or 3.5; its network is a transformer."""

    configs: Configs3

    @property
    def reads_pooled(self) -> bool:
        """Whether the transformer reads the text's pooled vector."""
        return True

    @property
    def guidance(self) -> Guidance:
        """The default of its pipeline in diffusers."""
        return ClassifierFreeGuidance(scale=7.0)

    @property
    def num_steps(self) -> int:
        """The default of its pipeline in diffusers."""
        return 28

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width that it was trained at, in pixels."""
        edge = self.configs.transformer.get("sample_size", 128) * self.autoencoder.config.downscale
        return edge, edge

    def save(self, folder: epath.PathLike) -> None:
        """Writes a pipeline folder, see `save_stable_diffusion_3`."""
        save_stable_diffusion_3(
            folder,
            configs=self.configs,
            params=self.params,
            autoencoder_params=self.autoencoder_params,
            text_encoder=self.text_encoder,
        )


@functools.cache
def transformer_network(
    config: str, dtype: Any, remat: str = "none", scan_layers: bool = False
) -> Functional:
    """The network of a ``transformer/config.json`` (its text) as pure functions, the same object for the same
    arguments.
    """
    fields = json.loads(config)

    def make(rngs: nnx.Rngs) -> SD3Transformer2DModel:
        return SD3Transformer2DModel.from_config(
            fields, dtype=dtype, remat=remat, scan_layers=scan_layers, rngs=rngs
        )

    return functional(make)


def is_stable_diffusion_3(folder: epath.PathLike) -> bool:
    """Whether a folder is a pipeline of this family."""
    path = epath.Path(folder) / INDEX
    return path.is_file() and read_json(path).get("_class_name") in PIPELINES


def read_configs_3(folder: epath.PathLike) -> Configs3:
    """The configs of a pipeline folder."""
    folder = epath.Path(folder)
    return Configs3(
        index=read_json(folder / INDEX),
        transformer=read_json(folder / "transformer" / CONFIG),
        vae=read_json(folder / "vae" / CONFIG),
        scheduler=read_json(folder / "scheduler" / SCHEDULER_CONFIG),
    )


def load_stable_diffusion_3(
    folder: epath.PathLike,
    *,
    dtype: Any = jnp.float32,
    variant: str | None = None,
    shardings: Params | Sharding | None = None,
    t5: bool = True,
    t5_length: int = T5_LENGTH,
) -> StableDiffusion3:
    """The checkpoint in a pipeline folder.

    Args:
        dtype: of the computation and of the parameters; the autoencoder stays in float32 where float16 would
            overflow (``force_upcast``).
        variant: of the weights, ``"fp16"``.
        shardings: of the transformer's parameters, see `from_torch`.
        t5: ``False`` leaves the third text encoder out, also where the checkpoint has it.
        t5_length: tokens that it gives a prompt, or zeros in its place.

    Raises:
        UserError: a file that is missing, damaged or not supported, or weights that do not fit.
    """
    folder = epath.Path(folder)
    configs = read_configs_3(folder)
    transformer = open_weights(folder / "transformer", WEIGHTS, variant=variant)
    vae = open_weights(folder / "vae", WEIGHTS, variant=variant)
    where = f"in {folder}"
    check_weights_3(configs, transformer, vae, where)
    encoder = _text_encoders(folder, configs, t5, t5_length, dtype=dtype, variant=variant)
    return assemble_3(configs, transformer, vae, encoder, where, dtype=dtype, shardings=shardings)


def check_weights_3(configs: Configs3, transformer: Tensors, vae: Tensors, where: str) -> None:
    """Whether the tensors of transformer and autoencoder are those of the configs; none is read.

    Raises:
        UserError: tensors are missing, left over or of another shape, or a config is not supported.
    """
    model, autoencoder, _ = configs.build(jnp.float32)
    check_names(transformer, model.abstract(), f"the transformer {where}")
    check_names(vae, autoencoder.network.abstract(), f"the autoencoder {where}")


def assemble_3(
    configs: Configs3,
    transformer: Tensors,
    vae: Tensors,
    encoder: JoinedEncoder,
    where: str,
    *,
    dtype: Any,
    shardings: Params | Sharding | None = None,
) -> StableDiffusion3:
    """Reads the weights of transformer and autoencoder into a checkpoint; ``where`` is for errors."""
    model, autoencoder, sampling = configs.build(dtype)
    what = f"the transformer {where}"
    return StableDiffusion3(
        model=model,
        params=from_torch(transformer, model.abstract(), what, dtype=dtype, shardings=shardings),
        autoencoder=autoencoder,
        autoencoder_params=from_torch(
            vae, autoencoder.network.abstract(), f"the autoencoder {where}", dtype=autoencoder.dtype
        ),
        text_encoder=encoder,
        sampling=sampling,
        configs=configs,
    )


def _text_encoders(
    folder: epath.Path, configs: Configs3, t5: bool, t5_length: int, *, dtype: Any, variant: str | None
) -> JoinedEncoder:
    check_t5_length(t5_length)
    third = t5 and has_component(configs.index, "text_encoder_3")
    for number in (1, 2, 3) if third else (1, 2):
        check_encoder_3(folder, configs.index, number)
    options: dict[str, Any] = {"dtype": dtype, "variant": variant}
    clips = [load_clip_3(folder, number, **options) for number in (1, 2)]
    last = load_t5_3(folder, t5_length, **options) if third else None
    return joined_3(clips, last, configs, t5_length, f"in {folder}")


def check_t5_length(t5_length: int) -> None:
    """Refuses a number of tokens that cannot be."""
    if t5_length < 1:
        raise UserError(f"t5_length = {t5_length} must be at least 1")


def check_encoder_3(folder: epath.Path, index: Mapping[str, Any], number: int) -> None:
    """Whether a pipeline folder has its ``number``-th text encoder with the tokenizer.

    Raises:
        UserError: it has not.
    """
    for name in (f"text_encoder{_suffix(number)}", f"tokenizer{_suffix(number)}"):
        if not has_component(index, name) or not (folder / name).is_dir():
            remedy = "fetch it again" + (", or leave it out with t5=False" if number == 3 else "")
            raise UserError(f"no {name} in {folder}, with which Stable Diffusion 3 reads prompts: {remedy}")


def load_clip_3(folder: epath.Path, number: int, *, dtype: Any, variant: str | None) -> TextEncoder:
    """The first or second text encoder of a pipeline folder, as Stable Diffusion 3 reads it."""
    options: dict[str, Any] = {"dtype": dtype, "param_dtype": dtype, "variant": variant, "batch_size": 8}
    return load_text_encoder(folder, number=number, **PENULTIMATE, **options)


def load_t5_3(folder: epath.Path, length: int, *, dtype: Any, variant: str | None) -> T5Encoder:
    """The third text encoder of a pipeline folder."""
    options: dict[str, Any] = {"dtype": dtype, "param_dtype": dtype, "variant": variant, "batch_size": 8}
    return load_t5_encoder(folder / "text_encoder_3", folder / "tokenizer_3", max_length=length, **options)


def joined_3(
    clips: Sequence[TextEncoder], t5: T5Encoder | None, configs: Configs3, t5_length: int, where: str
) -> JoinedEncoder:
    """The text encoders as the transformer reads them; where ``t5`` is ``None``, ``t5_length`` zeros.

    Raises:
        UserError: they do not belong to the transformer; ``where`` says which.
    """
    for number, tower in enumerate(clips, start=1):
        if "text_projection" not in tower.params:
            raise UserError(
                f"text encoder {number} {where} has no text_projection, which Stable Diffusion 3's pooled"
                " vector goes through: a CLIPTextModelWithProjection is needed"
            )
    width = configs.transformer.get("joint_attention_dim", 4096)
    last = ZeroEncoder(length=t5_length, width=width) if t5 is None else t5
    encoder = JoinedEncoder(
        (JoinedEncoder(tuple(clips), along="features", pooled=(0, 1)), last), along="tokens", pooled=(0,)
    )
    wanted = (width, configs.transformer.get("pooled_projection_dim", 2048))
    if wanted != (encoder.width, encoder.pooled_width):
        raise UserError(
            f"the transformer {where} reads text of width {wanted[0]} and a vector of {wanted[1]}, its"
            f" text encoders give {encoder.width} and {encoder.pooled_width}: they do not belong together"
        )
    return encoder


def save_stable_diffusion_3(
    folder: epath.PathLike,
    *,
    configs: Configs3,
    params: Params,
    autoencoder_params: Params,
    text_encoder: JoinedEncoder,
) -> None:
    """Writes a pipeline folder, which PyTorch diffusers and `load_stable_diffusion_3` read."""
    folder = epath.Path(folder)
    clips, third = text_encoder.encoders
    for name, config, weights in (
        ("transformer", configs.transformer, params),
        ("vae", configs.vae, autoencoder_params),
    ):
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        write_json(place / CONFIG, config)
        write_file(place / f"{WEIGHTS}.safetensors", to_torch(weights))
    (folder / "scheduler").mkdir(exist_ok=True)
    write_json(folder / "scheduler" / SCHEDULER_CONFIG, configs.scheduler)
    for number, tower in enumerate(clips.encoders, start=1):
        save_text_encoder(tower, folder, number=number)
    absent = {}
    if isinstance(third, T5Encoder):
        save_t5_encoder(third, folder / "text_encoder_3", folder / "tokenizer_3")
    else:
        absent = {"text_encoder_3": [None, None], "tokenizer_3": [None, None]}
    # Last, so that a folder with an index is whole.
    write_json(folder / INDEX, configs.index | absent)


def _suffix(number: int) -> str:
    return "" if number == 1 else f"_{number}"
