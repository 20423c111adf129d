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
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from etils import epath
from flax import nnx
from jax.sharding import Sharding

from difflax.diffusion.guidance import ClassifierFreeGuidance, Guidance
from difflax.models.autoencoder_kl import KLCodec
from difflax.models.functional import Functional, functional
from difflax.models.mmdit import SD3Transformer2DModel
from difflax.pretrained.checkpoint import Checkpoint
from difflax.pretrained.clip import load_text_encoder, save_text_encoder
from difflax.pretrained.hub import INDEX
from difflax.pretrained.names import check_names, from_torch, to_torch
from difflax.pretrained.schedulers import Sampling, read_scheduler
from difflax.pretrained.stable_diffusion import CONFIG, SCHEDULER_CONFIG, WEIGHTS, Config
from difflax.pretrained.t5 import load_t5_encoder, save_t5_encoder
from difflax.pretrained.tensor_files import open_weights, read_json, write_file, write_json
from difflax.text.joined import JoinedEncoder
from difflax.text.t5_encoder import T5Encoder, ZeroEncoder
from difflax.types import Params, UserError

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
    ) -> tuple[Functional, KLCodec, Sampling]:
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
        codec = KLCodec.from_config(self.vae, dtype)
        channels, latent = self.transformer.get("in_channels", 16), codec.config.latent_channels
        if channels != latent:
            raise UserError(
                f"transformer/{CONFIG}: in_channels = {channels} is not supported with latents of {latent}"
                f" channels, only {latent}"
            )
        sampling = read_scheduler(self.scheduler, patch_size=self.transformer.get("patch_size", 2))
        model = transformer_network(json.dumps(self.transformer, sort_keys=True), dtype, remat, scan_layers)
        return model, codec, sampling


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
        edge = self.configs.transformer.get("sample_size", 128) * self.codec.config.downscale
        return edge, edge

    def save(self, folder: epath.PathLike) -> None:
        """Writes a pipeline folder, see `save_stable_diffusion_3`."""
        save_stable_diffusion_3(
            folder,
            configs=self.configs,
            params=self.params,
            codec_params=self.codec_params,
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
    model, codec, sampling = configs.build(dtype)
    transformer = open_weights(folder / "transformer", WEIGHTS, variant=variant)
    vae = open_weights(folder / "vae", WEIGHTS, variant=variant)
    what, autoencoder = f"the transformer in {folder}", f"the autoencoder in {folder}"
    check_names(transformer, model.abstract(), what)
    check_names(vae, codec.network.abstract(), autoencoder)
    encoder = _text_encoders(folder, configs, t5, t5_length, dtype=dtype, variant=variant)
    return StableDiffusion3(
        model=model,
        params=from_torch(transformer, model.abstract(), what, dtype=dtype, shardings=shardings),
        codec=codec,
        codec_params=from_torch(vae, codec.network.abstract(), autoencoder, dtype=codec.dtype),
        text_encoder=encoder,
        sampling=sampling,
        configs=configs,
    )


def _text_encoders(
    folder: epath.Path, configs: Configs3, t5: bool, t5_length: int, *, dtype: Any, variant: str | None
) -> JoinedEncoder:
    if t5_length < 1:
        raise UserError(f"t5_length = {t5_length} must be at least 1")
    clips = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    third = ("text_encoder_3", "tokenizer_3") if t5 and _has(configs.index, "text_encoder_3") else ()
    for name in (*clips, *third):
        if not _has(configs.index, name) or not (folder / name).is_dir():
            remedy = "fetch it again" + (", or leave it out with t5=False" if name in third else "")
            raise UserError(f"no {name} in {folder}, with which Stable Diffusion 3 reads prompts: {remedy}")
    options: dict[str, Any] = {"dtype": dtype, "param_dtype": dtype, "variant": variant, "batch_size": 8}
    towers = [
        load_text_encoder(folder, number=number, layer=-2, final_norm=False, **options) for number in (1, 2)
    ]
    for number, tower in enumerate(towers, start=1):
        if "text_projection" not in tower.params:
            raise UserError(
                f"text encoder {number} in {folder} has no text_projection, which Stable Diffusion 3's pooled"
                " vector goes through: a CLIPTextModelWithProjection is needed"
            )
    width = configs.transformer.get("joint_attention_dim", 4096)
    if third:
        last = load_t5_encoder(folder / third[0], folder / third[1], max_length=t5_length, **options)
    else:
        last = ZeroEncoder(length=t5_length, width=width)
    encoder = JoinedEncoder(
        (JoinedEncoder(tuple(towers), along="features", pooled=(0, 1)), last), along="tokens", pooled=(0,)
    )
    wanted = (width, configs.transformer.get("pooled_projection_dim", 2048))
    if wanted != (encoder.width, encoder.pooled_width):
        raise UserError(
            f"the transformer in {folder} reads text of width {wanted[0]} and a vector of {wanted[1]}, its"
            f" text encoders give {encoder.width} and {encoder.pooled_width}: they do not belong together"
        )
    return encoder


def save_stable_diffusion_3(
    folder: epath.PathLike,
    *,
    configs: Configs3,
    params: Params,
    codec_params: Params,
    text_encoder: JoinedEncoder,
) -> None:
    """Writes a pipeline folder, which PyTorch diffusers and `load_stable_diffusion_3` read."""
    folder = epath.Path(folder)
    clips, third = text_encoder.encoders
    for name, config, weights in (
        ("transformer", configs.transformer, params),
        ("vae", configs.vae, codec_params),
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


def _has(index: Mapping[str, Any], name: str) -> bool:
    entry = index.get(name)
    return bool(entry) and entry[0] is not None
