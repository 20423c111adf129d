"""What every checkpoint has, of whatever family: networks by the names of diffusers' folders."""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from difflax.core.types import Conditioning, Params
from difflax.diffusion.guidance import Guidance
from difflax.models.autoencoder_kl import KLAutoencoder
from difflax.models.functional import Functional
from difflax.pretrained.components.schedulers import Sampling
from difflax.pretrained.components.text_encoders import named_towers
from difflax.text.joined import towers, with_towers
from difflax.text.prompts import PromptEncoder

Networks = dict[str, Params]
"""Parameters by the names of diffusers' folders: ``unet`` or ``transformer``, ``text_encoder``, …"""

DENOISERS = ("unet", "transformer")
CLIPS = ("text_encoder", "text_encoder_2")
"""The networks that a LoRA may change; a T5 (``text_encoder_3``) is never trained."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint(abc.ABC):
    """A checkpoint, ready to run.

    Attributes:
        model, params: the denoising network.
        autoencoder, autoencoder_params: the autoencoder.
        sampling: what its scheduler config means.
        configs: its files, for saving.
        sizes: how many micro-conditioning numbers the network reads, see `difflax.models.size_conditioning`.
    """

    model: Functional
    params: Params
    autoencoder: KLAutoencoder
    autoencoder_params: Params
    text_encoder: PromptEncoder
    sampling: Sampling
    configs: Any
    sizes: int = 0

    @property
    @abc.abstractmethod
    def guidance(self) -> Guidance:
        """The default of its pipeline in diffusers."""

    @property
    @abc.abstractmethod
    def num_steps(self) -> int:
        """The default of its pipeline in diffusers."""

    @property
    @abc.abstractmethod
    def image_size(self) -> tuple[int, int]:
        """Height and width that it was trained at, in pixels."""

    @property
    @abc.abstractmethod
    def reads_pooled(self) -> bool:
        """Whether the network reads the text's pooled vector."""

    @abc.abstractmethod
    def save(self, folder: epath.PathLike) -> None:
        """Writes a pipeline folder, which diffusers reads."""

    @property
    def refines(self) -> bool:
        """Whether it is a refiner, which goes on from what another model made."""
        return False

    @property
    def fills_masks(self) -> bool:
        """Whether the network also reads a mask and the image under it."""
        return False

    @property
    def edits_images(self) -> bool:
        """Whether the network also reads the image that is edited."""
        return False

    @property
    def conditions(self) -> tuple[str, ...]:
        """The kinds of condition that the network reads, as `difflax.generation.conditions` names them."""
        sizes = {0: (), 6: ("size",), 5: ("size_and_score",)}[self.sizes]
        return ("text", *sizes, *("mask",) * self.fills_masks, *("picture",) * self.edits_images)

    @property
    def zero_null(self) -> bool:
        """Whether no prompt is the zero condition, and not that of an empty prompt."""
        return False

    @property
    def null(self) -> Conditioning:
        """What the network is told where no negative prompt is given, one row."""
        empty = self.told(self.text_encoder.encode([""]))
        return jax.tree.map(jnp.zeros_like, empty) if self.zero_null else empty

    def told(self, encoded: Conditioning) -> Conditioning:
        """What of the text encoder's states the network is told."""
        return encoded if self.reads_pooled else dataclasses.replace(encoded, pooled=None)

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
        parts = [t.replace(dtype=dtype) if hasattr(t, "dtype") else t for t in towers(self.text_encoder)]
        return dataclasses.replace(
            self,
            model=model,
            autoencoder=KLAutoencoder.from_config(self.configs.vae, autoencoder_dtype),
            text_encoder=with_towers(self.text_encoder, parts),
        )


def denoiser_of(configs: Any) -> str:
    """Under which name diffusers keeps the denoising network; ``configs`` is ``None`` for a model that came
    from no checkpoint.
    """
    return "unet" if configs is None else configs.denoiser


def networks_of(configs: Any, params: Params, encoder: PromptEncoder) -> Networks:
    """All networks but the autoencoder; ``params``: of the denoising one."""
    index = {} if configs is None else configs.index
    return {
        denoiser_of(configs): params,
        **{name: tower.params for name, tower in named_towers(encoder, index).items()},
    }


def put_networks(
    configs: Any, encoder: PromptEncoder, networks: Mapping[str, Params]
) -> tuple[Params, PromptEncoder]:
    """The denoising network's parameters, and the text encoder with its own."""
    names = iter(named_towers(encoder, {} if configs is None else configs.index))
    parts = [
        tower.replace(params=networks[next(names)]) if hasattr(tower, "params") else tower
        for tower in towers(encoder)
    ]
    return networks[denoiser_of(configs)], with_towers(encoder, parts)
