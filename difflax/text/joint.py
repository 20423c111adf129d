"""A whole CLIP, ready to compare captions with images: for CLIP score, retrieval and feature distances."""

import functools
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from difflax.core.types import Params
from difflax.models.functional import Functional, functional
from difflax.text.clip import CLIPModel
from difflax.text.clip_config import CLIPConfig
from difflax.text.encoders import TextEncoder, in_batches
from difflax.text.pixels import PixelConfig, preprocess_images
from difflax.text.tokenizer import Tokenizer


@flax.struct.dataclass
class CLIP:
    """Both towers with what feeds them.

    Attributes:
        params: of `clip_network`.
        config: sizes of both towers.
        tokenizer: captions to token ids.
        pixels: how images are resized and normalised.
        batch_size: captions or images a call of a tower, padded, so that each tower is compiled once.
        dtype: what the towers compute in.
    """

    params: Params
    config: CLIPConfig = flax.struct.field(pytree_node=False)
    tokenizer: Tokenizer = flax.struct.field(pytree_node=False)
    pixels: PixelConfig = flax.struct.field(pytree_node=False)
    batch_size: int = flax.struct.field(pytree_node=False, default=64)
    dtype: Any = flax.struct.field(pytree_node=False, default=jnp.float32)

    @property
    def network(self) -> Functional:
        return clip_network(self.config, dtype=self.dtype)

    def text_features(self, captions: Sequence[str]) -> Float[Array, "b p"]:
        """Unit vectors of captions in the joint space."""
        run = functools.partial(_text_features, self.network, self.params)
        return in_batches(run, self.tokenizer(captions), self.batch_size)

    def image_features(self, images: Float[np.ndarray | Array, "b h w c"]) -> Float[Array, "b p"]:
        """Unit vectors of images, given in [0, 1], in the joint space."""
        run = functools.partial(_image_features, self.network, self.pixels, self.params)
        return in_batches(run, np.asarray(images, np.float32), self.batch_size)

    def text_encoder(self, *, layer: int = -1, final_norm: bool = True) -> TextEncoder:
        """Its text tower as the condition of a diffusion model; ``pooled`` is projected."""
        return TextEncoder(
            params={name: self.params[name] for name in ("text_model", "text_projection")},
            config=self.config.text_config,
            tokenizer=self.tokenizer,
            layer=layer,
            final_norm=final_norm,
            batch_size=self.batch_size,
            dtype=self.dtype,
        )


@functools.cache
def clip_network(config: CLIPConfig, *, dtype: Any = jnp.float32, remat: bool = False) -> Functional:
    """Both towers as pure functions, the same object for the same arguments."""
    return functional(lambda rngs: CLIPModel(config, dtype=dtype, remat=remat, rngs=rngs))


@functools.partial(jax.jit, static_argnums=0)
def _text_features(network: Functional, params: Params, input_ids: Int[Array, "b n"]) -> Float[Array, "b p"]:
    return network.apply(params, input_ids, method="get_text_features")


@functools.partial(jax.jit, static_argnums=(0, 1))
def _image_features(
    network: Functional, pixels: PixelConfig, params: Params, images: Float[Array, "b h w c"]
) -> Float[Array, "b p"]:
    pixel_values = preprocess_images(images, pixels.size, pixels.mean, pixels.std)
    return network.apply(params, pixel_values, method="get_image_features")
