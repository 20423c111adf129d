"""SigLIP (Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training") in NNX.

Its towers' layers are CLIP's. The text tower sees all tokens and is read at the last one, padding included;
the image tower has no class token and is read by a learned query, which attends to all patches. Image and
text belong together with probability ``sigmoid(exp(logit_scale) · cosine + logit_bias)``.

Names follow the Hub's weights (``vision_model/head/attention/in_proj_weight``).
"""

import functools
import string
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from difflax.core.types import Params
from difflax.models.functional import Functional, functional
from difflax.models.softmax_attention import attend
from difflax.text.clip import CLIPMLP, CLIPEncoder, CLIPTextEmbeddings, unit_norm
from difflax.text.encoders import in_batches
from difflax.text.siglip_config import SigLIPConfig, SigLIPTextConfig, SigLIPVisionConfig

BATCH_OF_TEXTS = 64
"""Texts that are encoded at once."""


def _norm(config: SigLIPTextConfig | SigLIPVisionConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(
        config.hidden_size, epsilon=config.layer_norm_eps, use_fast_variance=False, rngs=rngs
    )


class SigLIPTextTransformer(nnx.Module):
    def __init__(self, config: SigLIPTextConfig, *, rngs: nnx.Rngs):
        dtype = jnp.float32
        self.embeddings = CLIPTextEmbeddings(config, dtype=dtype, rngs=rngs)
        self.encoder = CLIPEncoder(config, causal=False, dtype=dtype, remat=False, rngs=rngs)
        self.final_layer_norm = _norm(config, rngs)
        self.head = nnx.Linear(config.hidden_size, config.projection_size or config.hidden_size, rngs=rngs)

    def __call__(self, input_ids: Int[Array, "b n"]) -> Float[Array, "b p"]:
        states = self.encoder(self.embeddings(input_ids))[-1]
        return self.head(self.final_layer_norm(states)[:, -1])


class SigLIPVisionEmbeddings(nnx.Module):
    def __init__(self, config: SigLIPVisionConfig, *, rngs: nnx.Rngs):
        width, patch = config.hidden_size, config.patch_size
        self.patch_embedding = nnx.Conv(
            config.num_channels, width, (patch, patch), strides=patch, padding="VALID", rngs=rngs
        )
        self.position_embedding = nnx.Embed((config.image_size // patch) ** 2, width, rngs=rngs)

    def __call__(self, pixel_values: Float[Array, "b h w c"]) -> Float[Array, "b n d"]:
        patches = self.patch_embedding(pixel_values)
        tokens = patches.reshape(len(patches), -1, patches.shape[-1])
        return tokens + self.position_embedding(jnp.arange(tokens.shape[1]))


class SigLIPPooling(nnx.Module):
    """PyTorch's ``MultiheadAttention`` of one query, with its three projections in one matrix."""

    def __init__(self, config: SigLIPVisionConfig, *, rngs: nnx.Rngs):
        width = config.hidden_size
        self.num_heads = config.num_attention_heads
        init = nnx.initializers.lecun_normal(in_axis=1, out_axis=0)
        self.in_proj_weight = nnx.Param(init(rngs.params(), (3 * width, width), jnp.float32))
        self.in_proj_bias = nnx.Param(jnp.zeros((3 * width,), jnp.float32))
        self.out_proj = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, query: Float[Array, "b 1 d"], x: Float[Array, "b n d"]) -> Float[Array, "b 1 d"]:
        weights = jnp.split(self.in_proj_weight[...], 3)
        biases = jnp.split(self.in_proj_bias[...], 3)
        parts = zip((query, x, x), weights, biases, strict=True)
        made = (part @ weight.T + bias for part, weight, bias in parts)
        heads = (part.reshape(*part.shape[:-1], self.num_heads, -1) for part in made)
        return self.out_proj(attend(*heads, implementation="xla").reshape(query.shape))


class SigLIPHead(nnx.Module):
    def __init__(self, config: SigLIPVisionConfig, *, rngs: nnx.Rngs):
        normal = nnx.initializers.normal(config.hidden_size**-0.5)
        self.probe = nnx.Param(normal(rngs.params(), (1, 1, config.hidden_size), jnp.float32))
        self.attention = SigLIPPooling(config, rngs=rngs)
        self.layernorm = _norm(config, rngs)
        self.mlp = CLIPMLP(config, dtype=jnp.float32, rngs=rngs)

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b d"]:
        query = jnp.broadcast_to(self.probe[...], (len(x), 1, x.shape[-1]))
        pooled = self.attention(query, x)
        return (pooled + self.mlp(self.layernorm(pooled)))[:, 0]


class SigLIPVisionTransformer(nnx.Module):
    def __init__(self, config: SigLIPVisionConfig, *, rngs: nnx.Rngs):
        self.embeddings = SigLIPVisionEmbeddings(config, rngs=rngs)
        self.encoder = CLIPEncoder(config, causal=False, dtype=jnp.float32, remat=False, rngs=rngs)
        self.post_layernorm = _norm(config, rngs)
        self.head = SigLIPHead(config, rngs=rngs)

    def __call__(self, pixel_values: Float[Array, "b h w c"]) -> Float[Array, "b d"]:
        return self.head(self.post_layernorm(self.encoder(self.embeddings(pixel_values))[-1]))


class SigLIPModel(nnx.Module):
    """Both towers and the two numbers of the sigmoid."""

    def __init__(self, config: SigLIPConfig, *, rngs: nnx.Rngs):
        self.text_model = SigLIPTextTransformer(config.text_config, rngs=rngs)
        self.vision_model = SigLIPVisionTransformer(config.vision_config, rngs=rngs)
        self.logit_scale = nnx.Param(jnp.zeros((1,), jnp.float32))
        self.logit_bias = nnx.Param(jnp.zeros((1,), jnp.float32))

    def get_text_features(self, input_ids: Int[Array, "b n"]) -> Float[Array, "b p"]:
        """Unit vectors of texts."""
        return unit_norm(self.text_model(input_ids))

    def get_image_features(self, pixel_values: Float[Array, "b h w c"]) -> Float[Array, "b p"]:
        """Unit vectors of normalised images."""
        return unit_norm(self.vision_model(pixel_values))


@functools.cache
def siglip_network(config: SigLIPConfig) -> Functional:
    """Both towers as pure functions, the same object for the same config."""
    return functional(lambda rngs: SigLIPModel(config, rngs=rngs))


@flax.struct.dataclass
class SigLIP:
    """Both towers with the tokenizer that feeds one.

    Attributes:
        params: of `siglip_network`.
        config: sizes of both towers.
        tokenizer: of transformers.
    """

    params: Params
    config: SigLIPConfig = flax.struct.field(pytree_node=False)
    tokenizer: Any = flax.struct.field(pytree_node=False)

    def text_features(self, texts: Sequence[str]) -> Float[Array, "b p"]:
        """Unit vectors of texts in the joint space."""
        run = functools.partial(_text_features, siglip_network(self.config), self.params)
        return in_batches(run, self.tokenize(texts), BATCH_OF_TEXTS)

    def tokenize(self, texts: Sequence[str]) -> Int[np.ndarray, "b n"]:
        """Token ids, cut and padded to all positions as in training."""
        length = self.config.text_config.max_position_embeddings
        rows = self.tokenizer(
            [canonical(text) for text in texts], padding="max_length", max_length=length, truncation=True
        )
        return np.asarray(rows["input_ids"], np.int32)


def canonical(text: str) -> str:
    """A text as SigLIP was trained on: lower case, without punctuation, single spaces."""
    return " ".join(text.lower().translate(str.maketrans("", "", string.punctuation)).split())


@functools.partial(jax.jit, static_argnums=0)
def _text_features(network: Functional, params: Params, input_ids: Int[Array, "b n"]) -> Float[Array, "b p"]:
    return network.apply(params, input_ids, method="get_text_features")
