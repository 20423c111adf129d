"""The sections of a run that starts from a checkpoint."""

import dataclasses

import jax.numpy as jnp

from difflax.config.schema import DTYPE
from difflax.core.spelling import choose
from difflax.models.remat import POLICIES
from difflax.pretrained.format.layout import AUTOENCODER

STORED = "pretrained"
"""The checkpoint's copy in a workdir."""

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainedOptions:
    """``config.model`` of a run that starts from a checkpoint.

    Attributes:
        path: a folder in diffusers' layout, a Hub id, or a ``.safetensors`` file in the original layout.
        variant: of the weights, ``fp16``, see `difflax.pretrained.format.hub.download`; empty for none.
        revision: branch, tag or commit on the Hub; empty for the newest.
        config: of a single file, a pipeline folder or Hub id; see `difflax.pretrained.open_file`.
        dtype: of the computation; parameters are float32.
        vae_dtype: of the autoencoder's computation; float32 in place of float16 where its own config has
            ``force_upcast``.
        remat: of the UNet or transformer, see ``difflax.models.remat``.
        scan_layers: its blocks of the same structure as one loop, see ``difflax.models.blocks``.
        copy: keep the checkpoint in the workdir, so that the workdir alone is enough; otherwise ``path`` must
            stay what it is.
        t5: whether Stable Diffusion 3's third text encoder is there; ``None`` for the checkpoint's own.
        t5_length: tokens a prompt that it gives; ``None`` for the checkpoint's own.
        time_shift: how far a flow's training times are moved towards the noise; 0 for as far as the
            checkpoint's scheduler moves the times of sampling.
    """

    path: str
    variant: str = ""
    revision: str = ""
    config: str = ""
    dtype: DTYPE = "bfloat16"
    vae_dtype: DTYPE = "float32"
    remat: str = "none"
    scan_layers: bool = False
    copy: bool = True
    t5: bool | None = None
    t5_length: int | None = None
    time_shift: float = 0.0

    def __post_init__(self):
        choose(POLICIES, self.remat, "remat")
        if self.time_shift < 0:
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
