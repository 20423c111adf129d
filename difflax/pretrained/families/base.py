"""A checkpoint of any family, ready to run: its networks by the names of diffusers' folders."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from difflax.core.several import several
from difflax.core.types import Conditioning, Params
from difflax.diffusion.guidance import Guidance
from difflax.models.autoencoder import Autoencoder
from difflax.models.functional import Functional
from difflax.pretrained.components.scheduler_reading import Sampling
from difflax.pretrained.components.text_encoders import TextPart, named_towers
from difflax.pretrained.families.family import DENOISERS, Configs, Strength
from difflax.pretrained.format.safetensors import Tensors
from difflax.pretrained.format.torch_names import from_torch
from difflax.text.prompts import PromptEncoder

Networks = dict[str, Params]
"""Parameters by the names of diffusers' folders: ``unet`` or ``transformer``, ``text_encoder``, …"""

CLIPS = ("text_encoder", "text_encoder_2")
"""The networks that a LoRA may change; a T5 (``text_encoder_3``) is never trained."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint, ready to run.

    Attributes:
        model, params: the denoising network.
        conditions: the kinds of condition that it reads, as `difflax.generation.conditions` names them,
            "text" first.
        autoencoder, autoencoder_params: the autoencoder.
        sampling: what its scheduler config means.
        configs: its files, for saving.
    """

    model: Functional
    params: Params
    conditions: tuple[str, ...]
    autoencoder: Autoencoder
    autoencoder_params: Params
    text_encoder: PromptEncoder
    sampling: Sampling
    configs: Configs

    @classmethod
    def read(
        cls,
        configs: Configs,
        denoiser: Tensors,
        autoencoder: Tensors,
        encoder: PromptEncoder,
        where: str,
        *,
        dtype: Any,
        place: Callable[[Params], Params] | None = None,
    ) -> "Checkpoint":
        """Reads the weights of denoising network and autoencoder into a checkpoint.

        Args:
            where: for errors.
            dtype: of the computation and of the parameters; the autoencoder stays in float32 where float16
                would overflow (``force_upcast``).
            place: shapes of the denoising network's parameters to their shardings, see `from_torch`.

        Raises:
            UserError: weights that do not fit, or configs that contradict each other.
        """
        model, images, sampling = configs.build(dtype)
        conditions = configs.family.conditions(configs, encoder, where)
        abstract, what = model.abstract(), f"the {DENOISERS[configs.denoiser]} {where}"
        shardings = None if place is None else place(abstract)
        return cls(
            model=model,
            params=from_torch(denoiser, abstract, what, dtype=dtype, shardings=shardings),
            conditions=conditions,
            autoencoder=images,
            autoencoder_params=from_torch(
                autoencoder, images.network.abstract(), f"the autoencoder {where}", dtype=images.dtype
            ),
            text_encoder=encoder,
            sampling=sampling,
            configs=configs,
        )

    @property
    def guidance(self) -> Guidance:
        """The default of its pipeline in diffusers."""
        return self.configs.family.guidance(self.configs, self.conditions)

    @property
    def num_steps(self) -> int:
        """The default of its pipeline in diffusers."""
        return self.configs.family.steps(self.configs)

    @property
    def strength(self) -> Strength:
        """The defaults of its image-to-image pipelines in diffusers."""
        return self.configs.family.strength

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width that it was trained at, in pixels."""
        size = self.configs.network.get("sample_size") or self.configs.family.sample_size
        height, width = several(size, 2)
        return height * self.autoencoder.config.downscale, width * self.autoencoder.config.downscale

    @property
    def reads_pooled(self) -> bool:
        """Whether the network reads the text's pooled vector."""
        return self.configs.family.reads_pooled(self.configs.network)

    @property
    def zero_null(self) -> bool:
        """Whether no prompt is the zero condition, and not that of an empty prompt."""
        return self.configs.family.zero_null(self.configs.index)

    @property
    def null(self) -> Conditioning:
        """What the network is told where no negative prompt is given, one row."""
        empty = self.told(self.text_encoder.encode([""]))
        return jax.tree.map(jnp.zeros_like, empty) if self.zero_null else empty

    def told(self, encoded: Conditioning) -> Conditioning:
        """What of the text encoder's states the network is told."""
        return encoded if self.reads_pooled else dataclasses.replace(encoded, pooled=None)

    def check_latent(self, height: int, width: int) -> None:
        """Refuses a latent that the network cannot read."""
        check = self.configs.family.check_latent
        if check is not None:
            check(self.configs.network, height, width)

    @property
    def networks(self) -> Networks:
        """See `networks_of`."""
        return networks_of(self.configs, self.params, self.text_encoder)

    def with_networks(self, networks: Mapping[str, Params]) -> "Checkpoint":
        """The checkpoint with other parameters of them."""
        params, encoder = put_networks(self.configs, self.text_encoder, networks)
        return dataclasses.replace(self, params=params, text_encoder=encoder)

    def computing_in(
        self, dtype: Any, *, autoencoder_dtype: Any, remat: str = "none", scan_layers: bool = False
    ) -> "Checkpoint":
        """The same parameters in networks that compute in ``dtype``, the autoencoder in
        ``autoencoder_dtype``; ``remat`` and ``scan_layers``: of the denoising network.
        """
        model, _, _ = self.configs.build(dtype, remat, scan_layers)
        parts = [t.replace(dtype=dtype) if hasattr(t, "dtype") else t for t in self.text_encoder.towers]
        kind = self.configs.family.autoencoder
        return dataclasses.replace(
            self,
            model=model,
            autoencoder=kind.from_config(self.configs.autoencoder, autoencoder_dtype),
            text_encoder=self.text_encoder.with_towers(parts),
        )

    def save(self, folder: epath.PathLike) -> None:
        """Writes a pipeline folder, which PyTorch diffusers reads."""
        self.configs.save(
            folder,
            params=self.params,
            autoencoder_params=self.autoencoder_params,
            text_encoder=self.text_encoder,
        )


def networks_of(configs: Configs | None, params: Params, encoder: PromptEncoder) -> Networks:
    """All networks but the autoencoder.

    Args:
        configs: ``None`` for a model that came from no checkpoint.
        params: of the denoising network.
    """
    denoiser, parts = _names(configs)
    return {
        denoiser: params,
        **{name: tower.params for name, tower in named_towers(encoder, parts).items()},
    }


def put_networks(
    configs: Configs | None, encoder: PromptEncoder, networks: Mapping[str, Params]
) -> tuple[Params, PromptEncoder]:
    """The denoising network's parameters, and the text encoder with its own."""
    denoiser, parts = _names(configs)
    names = iter(named_towers(encoder, parts))
    changed = [
        tower.replace(params=networks[next(names)]) if hasattr(tower, "params") else tower
        for tower in encoder.towers
    ]
    return networks[denoiser], encoder.with_towers(changed)


def _names(configs: Configs | None) -> tuple[str, tuple[TextPart, ...]]:
    return ("unet", ()) if configs is None else (configs.denoiser, configs.family.text)
