"""The sections of a run that starts from a checkpoint, and the checkpoint itself."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from difflax.config.build import build, construct
from difflax.config.sections import make_guidance, make_loss
from difflax.core.types import UserError
from difflax.diffusion.guidance import Guidance
from difflax.models.layers import choose
from difflax.models.remat import POLICIES
from difflax.pretrained.format.layout import AUTOENCODER
from difflax.training.tunings import TUNINGS, Tuning

STORED = "pretrained"
"""The checkpoint's copy in a workdir."""

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainedOptions:
    """``config.model`` of a run that starts from a checkpoint.

    Attributes:
        path: a folder in diffusers' layout, a Hub id, or a ``.safetensors`` file in the original layout.
        variant, revision: see `difflax.pretrained.format.hub.download`; empty for none.
        config: of a single file, a pipeline folder or Hub id; see `difflax.pretrained.open_file`.
        dtype: of the computation; parameters are float32.
        vae_dtype: of the autoencoder's computation.
        remat: of the UNet or transformer, see ``difflax.models.remat``.
        scan_layers: its blocks of the same structure as one loop, see ``difflax.models.blocks``.
        copy: keep the checkpoint in the workdir, so that the workdir alone is enough; otherwise ``path`` must
            stay what it is.
        t5, t5_length: of Stable Diffusion 3's third text encoder: ``False`` leaves it out; tokens a prompt.
            ``None`` for the checkpoint's own.
        time_shift: how far a flow's training times are moved towards the noise; 0 for as far as the
            checkpoint's scheduler moves the times of sampling.
    """

    path: str
    variant: str = ""
    revision: str = ""
    config: str = ""
    dtype: str = "bfloat16"
    vae_dtype: str = "float32"
    remat: str = "none"
    scan_layers: bool = False
    copy: bool = True
    t5: bool | None = None
    t5_length: int | None = None
    time_shift: float = 0.0

    def __post_init__(self):
        choose(DTYPES, self.dtype, "dtype")
        choose(DTYPES, self.vae_dtype, "vae_dtype")
        choose(POLICIES, self.remat, "remat")
        if not 0 <= self.time_shift < math.inf:
            raise ValueError(f"time_shift must not be negative, got {self.time_shift}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheOptions:
    """``config.cache``: what is computed once before training, and not in every step.

    Attributes:
        latents: what the autoencoder says of the images; they are not mirrored then.
        text: what the text encoder says of the captions, where it is not trained.
    """

    latents: bool = False
    text: bool = False

    def replaces(self, network: str) -> bool:
        """Whether no step runs the network of that name any more."""
        return self.latents if network == AUTOENCODER else self.text and network.startswith("text_encoder")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplerOptions:
    """``config.sampler``: the rest is the checkpoint's own."""

    num_steps: int = 50

    def __post_init__(self):
        if self.num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, got {self.num_steps}")


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """The parts of the config, built and checked; nothing is read or computed yet."""

    model: PretrainedOptions
    tuning: Tuning
    cache: CacheOptions
    loss: dict[str, Any]
    num_steps: int
    guidance: Guidance


def make_pretrained(config: ConfigDict) -> Pretrained:
    """The parts of the config of a run that starts from a checkpoint.

    Raises:
        UserError: naming the key, its value and what is valid.
    """
    model = {key: value for key, value in config.model.items() if key != "name"}
    tuning = build(TUNINGS, config.tune, "config.tune")
    cache = construct(CacheOptions, config.cache, "config.cache")
    guidance, weak = make_guidance(config.guidance)
    if weak is not None:
        raise UserError("config.guidance.weak: a pretrained model has no worse one; take another guidance")
    if cache.text and tuning.trains_text:
        raise UserError("config.cache.text: the text encoder is trained, its states change; set it to False")
    parts = make_loss(config.loss)
    if cache.latents and config.data.get("flip"):
        raise UserError("config.cache.latents: cached images are not mirrored; set config.data.flip = 0")
    if cache.latents and config.data.get("buckets"):
        raise UserError("config.cache.latents: buckets have latents of several shapes; set it to False")
    if cache.latents and parts["loss"].masked:
        raise UserError("config.cache.latents does not go with config.loss.masked, whose masks it leaves out")
    return Pretrained(
        model=construct(PretrainedOptions, model, "config.model (pretrained)"),
        tuning=tuning,
        cache=cache,
        loss=parts,
        num_steps=construct(SamplerOptions, config.sampler, "config.sampler").num_steps,
        guidance=guidance,
    )
