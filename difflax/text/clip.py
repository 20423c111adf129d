"""CLIP (Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision") in NNX.

Both towers are pre-LN transformers: ``x + attention(norm1(x))``, then ``x + mlp(norm2(x))``. The text tower
attends causally and reads a caption at its end-of-text token; the image tower is a ViT read at its class
token. Two bias-free projections bring them into one space, where images and captions are compared by cosine.

Names follow the Hub's weights (``text_model/encoder/layers/0/self_attn/q_proj/kernel``) and its
``config.json``, so that OpenAI's, OpenCLIP's and a small model trained here differ in size and weights only.
``pre_layrnorm`` is the Hub's own spelling.
"""

import math

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from difflax.models.layers import ACTIVATIONS
from difflax.models.softmax_attention import attend
from difflax.text.clip_config import CLIPConfig, CLIPTextConfig, CLIPVisionConfig

LEGACY_EOS_TOKEN_ID = 2
"""The value in the ``config.json`` of old checkpoints, never the id that their tokenizers emit."""

MAX_INVERSE_TEMPERATURE = 100.0


@flax.struct.dataclass
class TowerOutput:
    """What a tower says about a batch of token sequences or images.

    Attributes:
        hidden_states: the embeddings and the output of every layer, ``num_hidden_layers + 1`` arrays, all
            before the final norm.
        last_hidden_state: the token states to condition on; for text, after the final norm.
        pooled: the state of the end-of-text or class token, normed.
        projected: ``pooled`` in the joint space, not normalised; ``None`` in a model without projection.
    """

    hidden_states: tuple[Float[Array, "b n d"], ...]
    last_hidden_state: Float[Array, "b n d"]
    pooled: Float[Array, "b d"]
    projected: Float[Array, "b p"] | None = None


@flax.struct.dataclass
class CLIPOutput:
    """Unit-norm features in the joint space and their scaled cosines; ``None`` for a tower that was not run.

    ``logits_per_text[i, j] = min(exp(logit_scale), 100) · <text_embeds[i], image_embeds[j]>``;
    ``text_pooled`` is what the text tower says of each caption, before the projection.
    """

    text_pooled: Float[Array, "t d"] | None
    text_embeds: Float[Array, "t p"] | None
    image_embeds: Float[Array, "i p"] | None
    logits_per_text: Float[Array, "t i"] | None


class CLIPAttention(nnx.Module):
    """Multi-head self-attention; the softmax runs in float32."""

    def __init__(self, config: CLIPTextConfig | CLIPVisionConfig, *, causal: bool, dtype, rngs: nnx.Rngs):
        width = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.causal = causal
        std = width**-0.5
        self.q_proj = _linear(width, width, std, dtype, rngs)
        self.k_proj = _linear(width, width, std, dtype, rngs)
        self.v_proj = _linear(width, width, std, dtype, rngs)
        self.out_proj = _linear(width, width, _residual_std(config), dtype, rngs)

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        def heads(y):
            return y.reshape(*y.shape[:-1], self.num_heads, -1)

        query, key, value = (heads(project(x)) for project in (self.q_proj, self.k_proj, self.v_proj))
        # A few hundred tokens at most: blocks would save nothing.
        out = attend(query, key, value, causal=self.causal, implementation="xla")
        return self.out_proj(out.reshape(x.shape))


class CLIPMLP(nnx.Module):
    def __init__(self, config: CLIPTextConfig | CLIPVisionConfig, *, dtype, rngs: nnx.Rngs):
        width, inner = config.hidden_size, config.intermediate_size
        self.hidden_act = config.hidden_act
        self.fc1 = _linear(width, inner, (2 * width) ** -0.5, dtype, rngs)
        self.fc2 = _linear(inner, width, _residual_std(config), dtype, rngs)

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        return self.fc2(ACTIVATIONS[self.hidden_act](self.fc1(x)))


class CLIPEncoderLayer(nnx.Module):
    def __init__(self, config: CLIPTextConfig | CLIPVisionConfig, *, causal: bool, dtype, rngs: nnx.Rngs):
        self.layer_norm1 = _norm(config, dtype, rngs)
        self.self_attn = CLIPAttention(config, causal=causal, dtype=dtype, rngs=rngs)
        self.layer_norm2 = _norm(config, dtype, rngs)
        self.mlp = CLIPMLP(config, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class CLIPEncoder(nnx.Module):
    """The stack of layers; returns its input and every layer's output."""

    def __init__(
        self, config: CLIPTextConfig | CLIPVisionConfig, *, causal: bool, dtype, remat: bool, rngs: nnx.Rngs
    ):
        self.remat = remat
        self.layers = nnx.List(
            CLIPEncoderLayer(config, causal=causal, dtype=dtype, rngs=rngs)
            for _ in range(config.num_hidden_layers)
        )

    def __call__(self, x: Float[Array, "b n d"]) -> tuple[Float[Array, "b n d"], ...]:
        run = nnx.remat(CLIPEncoderLayer.__call__) if self.remat else CLIPEncoderLayer.__call__
        states = [x]
        for layer in self.layers:
            states.append(run(layer, states[-1]))
        return tuple(states)


class CLIPTextEmbeddings(nnx.Module):
    def __init__(self, config: CLIPTextConfig, *, dtype, rngs: nnx.Rngs):
        self.token_embedding = _embed(config.vocab_size, config.hidden_size, 0.02, dtype, rngs)
        self.position_embedding = _embed(
            config.max_position_embeddings, config.hidden_size, 0.01, dtype, rngs
        )

    def __call__(self, input_ids: Int[Array, "b n"]) -> Float[Array, "b n d"]:
        length, limit = input_ids.shape[-1], self.position_embedding.num_embeddings
        if length > limit:
            raise ValueError(f"{length} tokens a caption, but the text tower has {limit} positions")
        return self.token_embedding(input_ids) + self.position_embedding(jnp.arange(length))


class CLIPTextTransformer(nnx.Module):
    def __init__(self, config: CLIPTextConfig, *, dtype, remat: bool, rngs: nnx.Rngs):
        self.eos_token_id = config.eos_token_id
        self.embeddings = CLIPTextEmbeddings(config, dtype=dtype, rngs=rngs)
        self.encoder = CLIPEncoder(config, causal=True, dtype=dtype, remat=remat, rngs=rngs)
        self.final_layer_norm = _norm(config, dtype, rngs)

    def __call__(self, input_ids: Int[Array, "b n"], *, layer: int = -1) -> TowerOutput:
        states = self.encoder(self.embeddings(input_ids))
        last = self.final_layer_norm(states[-1])
        end = eos_positions(input_ids, self.eos_token_id)
        return TowerOutput(
            hidden_states=states,
            last_hidden_state=last if layer == -1 else self.final_layer_norm(states[layer]),
            pooled=jnp.take_along_axis(last, end[:, None, None], axis=1)[:, 0],
        )


class CLIPTextModel(nnx.Module):
    """The text tower alone (Stable Diffusion 1.x and 2.x).

    Args:
        config: sizes and special tokens, as in the checkpoint's ``config.json``.
        dtype: what the layers compute in; parameters stay float32.
        remat: recompute each layer's activations in the backward pass.
        rngs: the ``params`` stream initialises as OpenAI's code does: residual branches start smaller the
            deeper the network.
    """

    def __init__(self, config: CLIPTextConfig, *, dtype=jnp.float32, remat: bool = False, rngs: nnx.Rngs):
        self.text_model = CLIPTextTransformer(config, dtype=dtype, remat=remat, rngs=rngs)

    def __call__(self, input_ids: Int[Array, "b n"], *, layer: int = -1) -> TowerOutput:
        """Reads captions of ``n ≤ max_position_embeddings`` tokens.

        ``layer`` chooses which of ``hidden_states`` the final norm turns into ``last_hidden_state`` ("CLIP
        skip"); ``pooled`` always comes from the last layer.

        Raises:
            ValueError: more tokens than positions.
        """
        return self.text_model(input_ids, layer=layer)


class CLIPTextModelWithProjection(CLIPTextModel):
    """The text tower and its projection into the joint space (the second encoder of SDXL, both of SD3)."""

    def __init__(self, config: CLIPTextConfig, *, dtype=jnp.float32, remat: bool = False, rngs: nnx.Rngs):
        super().__init__(config, dtype=dtype, remat=remat, rngs=rngs)
        self.text_projection = _projection(config, config.projection_dim, dtype, rngs)

    def __call__(self, input_ids: Int[Array, "b n"], *, layer: int = -1) -> TowerOutput:
        out = self.text_model(input_ids, layer=layer)
        return out.replace(projected=self.text_projection(out.pooled))


class CLIPVisionEmbeddings(nnx.Module):
    def __init__(self, config: CLIPVisionConfig, *, dtype, rngs: nnx.Rngs):
        width, patch = config.hidden_size, config.patch_size
        self.image_shape = (config.image_size, config.image_size, config.num_channels)
        self.dtype = dtype
        normal = nnx.initializers.normal(width**-0.5)
        self.class_embedding = nnx.Param(normal(rngs.params(), (width,), jnp.float32))
        self.patch_embedding = nnx.Conv(
            config.num_channels,
            width,
            (patch, patch),
            strides=patch,
            padding="VALID",
            use_bias=False,
            dtype=dtype,
            rngs=rngs,
        )
        num_positions = (config.image_size // patch) ** 2 + 1
        self.position_embedding = _embed(num_positions, width, width**-0.5, dtype, rngs)

    def __call__(self, pixel_values: Float[Array, "b h w c"]) -> Float[Array, "b n d"]:
        if pixel_values.shape[1:] != self.image_shape:
            raise ValueError(
                f"images of {pixel_values.shape[1:]}, but the image tower reads {self.image_shape}"
            )
        patches = self.patch_embedding(pixel_values)
        batch, *_, width = patches.shape
        first = jnp.broadcast_to(self.class_embedding[...].astype(self.dtype), (batch, 1, width))
        tokens = jnp.concatenate([first, patches.reshape(batch, -1, width)], axis=1)
        return tokens + self.position_embedding(jnp.arange(tokens.shape[1]))


class CLIPVisionTransformer(nnx.Module):
    def __init__(self, config: CLIPVisionConfig, *, dtype, remat: bool, rngs: nnx.Rngs):
        self.embeddings = CLIPVisionEmbeddings(config, dtype=dtype, rngs=rngs)
        self.pre_layrnorm = _norm(config, dtype, rngs)
        self.encoder = CLIPEncoder(config, causal=False, dtype=dtype, remat=remat, rngs=rngs)
        self.post_layernorm = _norm(config, dtype, rngs)

    def __call__(self, pixel_values: Float[Array, "b h w c"]) -> TowerOutput:
        states = self.encoder(self.pre_layrnorm(self.embeddings(pixel_values)))
        return TowerOutput(
            hidden_states=states,
            last_hidden_state=states[-1],
            pooled=self.post_layernorm(states[-1][:, 0]),
        )


class CLIPModel(nnx.Module):
    """Both towers, their projections and the learned temperature; arguments as for `CLIPTextModel`."""

    def __init__(self, config: CLIPConfig, *, dtype=jnp.float32, remat: bool = False, rngs: nnx.Rngs):
        text, vision = config.text_config, config.vision_config
        self.text_model = CLIPTextTransformer(text, dtype=dtype, remat=remat, rngs=rngs)
        self.vision_model = CLIPVisionTransformer(vision, dtype=dtype, remat=remat, rngs=rngs)
        self.text_projection = _projection(text, config.projection_dim, dtype, rngs)
        self.visual_projection = _projection(vision, config.projection_dim, dtype, rngs)
        self.logit_scale = nnx.Param(jnp.asarray(config.logit_scale_init_value, jnp.float32))

    def get_text_features(self, input_ids: Int[Array, "b n"]) -> Float[Array, "b p"]:
        """Unit vectors of captions in the joint space, float32."""
        return unit_norm(self.text_projection(self.text_model(input_ids).pooled))

    def get_image_features(self, pixel_values: Float[Array, "b h w c"]) -> Float[Array, "b p"]:
        """Unit vectors of images in the joint space, float32."""
        return unit_norm(self.visual_projection(self.vision_model(pixel_values).pooled))

    def get_image_states(self, pixel_values: Float[Array, "b h w c"]) -> tuple[Float[Array, "b n d"], ...]:
        """The image tower's ``hidden_states``, see `TowerOutput`."""
        return self.vision_model(pixel_values).hidden_states

    def __call__(
        self,
        input_ids: Int[Array, "t n"] | None = None,
        pixel_values: Float[Array, "i h w c"] | None = None,
    ) -> CLIPOutput:
        """Compares every caption with every image; with one of them missing, runs the other tower alone."""
        pooled = None if input_ids is None else self.text_model(input_ids).pooled
        text = None if pooled is None else unit_norm(self.text_projection(pooled))
        image = None if pixel_values is None else self.get_image_features(pixel_values)
        logits = None
        if text is not None and image is not None:
            logits = inverse_temperature(self.logit_scale[...]) * (text @ image.T)
        return CLIPOutput(text_pooled=pooled, text_embeds=text, image_embeds=image, logits_per_text=logits)


def eos_positions(input_ids: Int[Array, "b n"], eos_token_id: int) -> Int[Array, " b"]:
    """Where each caption ends: the first ``eos_token_id``, which may also be the padding.

    Old checkpoints state 2, which no caption contains; there the end is the largest id, as OpenAI's code has
    it. A caption without an end is read at its first token, as in transformers.
    """
    is_end = input_ids if eos_token_id == LEGACY_EOS_TOKEN_ID else input_ids == eos_token_id
    return jnp.argmax(is_end, axis=-1)


def unit_norm(x: Float[Array, "*b p"]) -> Float[Array, "*b p"]:
    """``x / |x|`` in float32, with finite values and gradients at ``x = 0``."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))


@jax.custom_vjp
def inverse_temperature(logit_scale: Float[Array, ""]) -> Float[Array, ""]:
    """``min(exp(logit_scale), 100)``, the factor before the cosines (Radford et al. 2021, sec. 2.5).

    OpenAI clips the parameter after each update. Here the gradient does it: at the limit it vanishes where
    descent would raise the scale, and passes where descent would lower it, so that no step gets stuck.
    """
    return jnp.minimum(jnp.exp(logit_scale), MAX_INVERSE_TEMPERATURE)


def _inverse_temperature_forward(logit_scale):
    return inverse_temperature(logit_scale), logit_scale


def _inverse_temperature_backward(logit_scale, cotangent):
    at_limit = logit_scale >= math.log(MAX_INVERSE_TEMPERATURE)
    gradient = cotangent * jnp.minimum(jnp.exp(logit_scale), MAX_INVERSE_TEMPERATURE)
    return (jnp.where(at_limit, jnp.maximum(gradient, 0.0), gradient),)


inverse_temperature.defvjp(_inverse_temperature_forward, _inverse_temperature_backward)


def _residual_std(config: CLIPTextConfig | CLIPVisionConfig) -> float:
    return config.hidden_size**-0.5 * (2 * config.num_hidden_layers) ** -0.5


def _linear(in_features: int, out_features: int, std: float, dtype, rngs: nnx.Rngs) -> nnx.Linear:
    init = nnx.initializers.normal(std)
    return nnx.Linear(in_features, out_features, kernel_init=init, dtype=dtype, rngs=rngs)


def _projection(config: CLIPTextConfig | CLIPVisionConfig, size: int, dtype, rngs: nnx.Rngs) -> nnx.Linear:
    width = config.hidden_size
    init = nnx.initializers.normal(width**-0.5)
    return nnx.Linear(width, size, use_bias=False, kernel_init=init, dtype=dtype, rngs=rngs)


def _norm(config: CLIPTextConfig | CLIPVisionConfig, dtype, rngs: nnx.Rngs) -> nnx.LayerNorm:
    # Flax's fast variance E[x²] − E[x]² loses digits that the reference keeps.
    return nnx.LayerNorm(
        config.hidden_size,
        epsilon=config.layer_norm_eps,
        use_fast_variance=False,
        dtype=dtype,
        rngs=rngs,
    )


def _embed(num: int, size: int, std: float, dtype, rngs: nnx.Rngs) -> nnx.Embed:
    init = nnx.initializers.normal(std)
    return nnx.Embed(num, size, embedding_init=init, dtype=dtype, rngs=rngs)
