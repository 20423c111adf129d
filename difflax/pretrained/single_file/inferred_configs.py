"""The configs that a file in the original layout implies: structure from its tensors' names and shapes, the
rest what all published checkpoints of the family have in common.

What neither tells is fixed here: heads have 64 channels where nothing says otherwise (8 heads in the UNet of
1.x), as in everything that CompVis, Stability, OpenAI and OpenCLIP published.
"""

import math
import re
from collections.abc import Iterable, Mapping

from difflax.core.types import UserError
from difflax.pretrained.components.schedulers import FLOW
from difflax.pretrained.components.t5 import TABLE
from difflax.pretrained.families.sd import Config, Configs
from difflax.pretrained.families.sd3 import Configs3
from difflax.pretrained.format.safetensors import Tensors
from difflax.text.t5 import T5Config

_BETAS = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "clip_sample": False,
}
_HEAD = 64
"""Channels."""

_INDEX_3 = {
    "_class_name": "StableDiffusion3Pipeline",
    "_diffusers_version": "0.36.0",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "scheduler": ["diffusers", FLOW],
    "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "transformer": ["diffusers", "SD3Transformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def infer_configs(
    unet: Tensors,
    vae: Tensors,
    *,
    second: bool,
    prediction_type: str | None,
    xl: bool = False,
    refiner: bool = False,
) -> Configs:
    """The configs that a file's names and shapes imply, with what 1.x, 2.x (``second``) or XL has in common.

    Raises:
        UserError: a 2.x file without ``prediction_type``.
    """
    if second and prediction_type is None:
        raise UserError(
            "a Stable Diffusion 2.x file does not tell what it predicts: give prediction_type=v_prediction"
            " (the 768-pixel models) or prediction_type=epsilon (the base models)"
        )
    predicts = prediction_type or "epsilon"
    kept = {int(m[1]) for name in unet if (m := re.match(r"input_blocks\.(\d+)\.0\.(op|in_layers)", name))}
    stops = sorted({int(m[1]) for n in unet if (m := re.match(r"input_blocks\.(\d+)\.0\.op\.", n))})
    layers = (stops[0] if stops else max(kept) + 1) - 1
    levels = len(stops) + 1
    firsts = [1 + level * (layers + 1) for level in range(levels)]
    widths = [unet[f"input_blocks.{i}.0.out_layers.3.weight"].shape[0] for i in firsts]
    reads = [f"input_blocks.{i}.1.norm.weight" in unet for i in firsts]
    context = next(t.shape[1] for n, t in unet.items() if n.endswith("attn2.to_k.weight"))
    linear = next(len(t.shape) == 2 for n, t in unet.items() if n.endswith("1.proj_in.weight"))
    unet_config = {
        "_class_name": "UNet2DConditionModel",
        "in_channels": unet["input_blocks.0.0.weight"].shape[1],
        "out_channels": unet["out.2.weight"].shape[0],
        "block_out_channels": widths,
        "layers_per_block": layers,
        "down_block_types": ["CrossAttnDownBlock2D" if r else "DownBlock2D" for r in reads],
        "up_block_types": ["CrossAttnUpBlock2D" if r else "UpBlock2D" for r in reads[::-1]],
        "cross_attention_dim": context,
        "attention_head_dim": [width // 64 for width in widths] if second else 8,
        "use_linear_projection": linear,
        "sample_size": 96 if second and predicts == "v_prediction" else 64,
    }
    if xl:
        unet_config |= _xl_options(unet, widths, firsts)
    vae_config = infer_vae_config(
        vae, sample_size=1024 if xl else 512, scaling_factor=0.13025 if xl else 0.18215
    )
    kind = {"_class_name": "DDIMScheduler"}
    if xl:
        kind = {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"}
    elif predicts == "epsilon":
        kind = {"_class_name": "PNDMScheduler", "skip_prk_steps": True}
    scheduler = _BETAS | kind | {"prediction_type": predicts}
    index: Config = {"_class_name": "StableDiffusionPipeline"}
    if xl:
        index = {
            "_class_name": f"StableDiffusionXL{'Img2Img' * refiner}Pipeline",
            "force_zeros_for_empty_prompt": not refiner,
            "requires_aesthetics_score": refiner,
        }
    return Configs(index=index, unet=unet_config, vae=vae_config, scheduler=scheduler)


def _xl_options(unet: Tensors, widths: list[int], firsts: list[int]) -> Config:
    """What Stable Diffusion XL's UNet has beside; heads have 64 channels, sizes sinusoids of 256."""

    def depth(block: str) -> int:
        pattern = re.compile(rf"{re.escape(block)}\.1\.transformer_blocks\.(\d+)\.")
        return 1 + max((int(m[1]) for name in unet if (m := pattern.match(name))), default=0)

    # The middle block's depth is the last level's, which in the refiner has no attention of its own.
    depths = [depth(f"input_blocks.{i}") for i in firsts[:-1]] + [depth("middle_block")]
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "attention_head_dim": [width // 64 for width in widths],
        "projection_class_embeddings_input_dim": unet["label_emb.0.0.weight"].shape[1],
        "sample_size": 128,
        "transformer_layers_per_block": depths,
    }


def infer_configs_3(transformer: Tensors, vae: Tensors) -> Configs3:
    """The configs that a file's names and shapes imply, with what Stable Diffusion 3 and 3.5 have in common:
    positions that count from 1024-pixel images, a scheduler whose shift is 3.

    Raises:
        UserError: tensors that tell the structure are missing or have another number of axes, or heads do not
            divide the width.
    """
    what = "the transformer in the file"
    axes = {
        "x_embedder.proj.weight": 4,
        "context_embedder.weight": 2,
        "y_embedder.mlp.0.weight": 2,
        "pos_embed": 3,
        "final_layer.linear.weight": 2,
    }
    norm = "joint_blocks.0.x_block.attn.ln_q.weight"
    has_norms = norm in transformer
    shapes = _shapes(transformer, axes | ({norm: 1} if has_norms else {}), what)
    width, channels, patch, _ = shapes["x_embedder.proj.weight"]
    head = shapes[norm][0] if has_norms else _HEAD
    blocks = [m for n in transformer if (m := re.match(r"joint_blocks\.(\d+)\.(x_block\.attn2\.)?", n))]
    config = {
        "_class_name": "SD3Transformer2DModel",
        "sample_size": 128,
        "patch_size": patch,
        "in_channels": channels,
        "out_channels": shapes["final_layer.linear.weight"][0] // patch**2,
        "num_layers": _count((m[1] for m in blocks), f"the joint_blocks of {what}"),
        "attention_head_dim": head,
        "num_attention_heads": _heads(width, head, what),
        "joint_attention_dim": shapes["context_embedder.weight"][1],
        "caption_projection_dim": width,
        "pooled_projection_dim": shapes["y_embedder.mlp.0.weight"][1],
        "pos_embed_max_size": math.isqrt(shapes["pos_embed"][1]),
        "dual_attention_layers": sorted({int(m[1]) for m in blocks if m[2]}),
        "qk_norm": "rms_norm" if has_norms else None,
    }
    return Configs3(
        index=dict(_INDEX_3),
        transformer=config,
        vae=infer_vae_config(vae, sample_size=1024, scaling_factor=1.5305, shift_factor=0.0609),
        scheduler={"_class_name": FLOW, "num_train_timesteps": 1000, "shift": 3.0},
    )


def infer_vae_config(
    vae: Tensors, *, sample_size: int, scaling_factor: float, shift_factor: float | None = None
) -> Config:
    """The autoencoder's config; no tensor tells ``sample_size``, ``scaling_factor`` and ``shift_factor``.

    Raises:
        UserError: tensors that tell the structure are missing or have another number of axes.
    """
    what = "the autoencoder in the file"
    levels = _count(
        (m[1] for n in vae if (m := re.match(r"encoder\.down\.(\d+)\.", n))), f"the encoder.down of {what}"
    )
    firsts = [f"encoder.down.{i}.block.0.conv1.weight" for i in range(levels)]
    shapes = _shapes(vae, {"decoder.conv_in.weight": 4} | dict.fromkeys(firsts, 4), what)
    return {
        "_class_name": "AutoencoderKL",
        "block_out_channels": [shapes[name][0] for name in firsts],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": len({n.split(".")[4] for n in vae if n.startswith("encoder.down.0.block.")}),
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "use_quant_conv": "quant_conv.weight" in vae,
        "use_post_quant_conv": "post_quant_conv.weight" in vae,
        "sample_size": sample_size,
        "scaling_factor": scaling_factor,
        **({} if shift_factor is None else {"shift_factor": shift_factor}),
    }


def infer_text_config(text: Tensors, *, second: bool, whole: bool = False, renamed: bool = False) -> Config:
    """The config of a CLIP text tower.

    Args:
        second: it is OpenCLIP's.
        whole: with an OpenCLIP tower's last layer, and with the projection.
        renamed: an OpenCLIP tower has transformers' names in the file.

    Raises:
        UserError: tensors that tell the structure are missing or have another number of axes, or heads do not
            divide the width.
    """
    what, own = "the text encoder in the file", second and not renamed
    token = "token_embedding.weight" if own else "text_model.embeddings.token_embedding.weight"
    inner = "transformer.resblocks.0.mlp.c_fc" if own else "text_model.encoder.layers.0.mlp.fc1"
    position = "positional_embedding" if own else "text_model.embeddings.position_embedding.weight"
    projection = "text_projection" if own else "text_projection.weight"
    projects = whole and (second or projection in text)
    axes = {token: 2, f"{inner}.weight": 2, position: 2} | ({projection: 2} if projects else {})
    shapes = _shapes(text, axes, what)
    blocks = r"transformer\.resblocks\.(\d+)\." if own else r"text_model\.encoder\.layers\.(\d+)\."
    count = _count((m[1] for n in text if (m := re.match(blocks, n))), f"the layers of {what}")
    vocab, width = shapes[token]
    return {
        "model_type": "clip_text_model",
        "architectures": [f"CLIPTextModel{'WithProjection' * projects}"],
        "projection_dim": shapes[projection][1 if own else 0] if projects else width,
        "vocab_size": vocab,
        "hidden_size": width,
        "intermediate_size": shapes[f"{inner}.weight"][0],
        "num_hidden_layers": count - 1 if second and not whole else count,
        "num_attention_heads": _heads(width, _HEAD, what),
        "max_position_embeddings": shapes[position][0],
        "hidden_act": "gelu" if second else "quick_gelu",
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }


def infer_t5_config(tensors: Tensors) -> Config:
    """The config of a T5 encoder of version 1.0 or 1.1; distances beyond 128 share a bucket, as in all.

    Raises:
        UserError: tensors that tell the structure are missing or have another number of axes.
    """
    what, block = "the T5 encoder in the file", "encoder.block.0.layer"
    bias = f"{block}.0.SelfAttention.relative_attention_bias.weight"
    query = f"{block}.0.SelfAttention.q.weight"
    gated = f"{block}.1.DenseReluDense.wi_0.weight"
    inner = gated if gated in tensors else f"{block}.1.DenseReluDense.wi.weight"
    shapes = _shapes(tensors, dict.fromkeys((TABLE, bias, query, inner), 2), what)
    numbers = (m[1] for n in tensors if (m := re.match(r"encoder\.block\.(\d+)\.", n)))
    buckets, heads = shapes[bias]
    return {
        "architectures": ["T5EncoderModel"],
        "model_type": T5Config.model_type,
        "vocab_size": shapes[TABLE][0],
        "d_model": shapes[TABLE][1],
        "d_kv": shapes[query][0] // heads,
        "d_ff": shapes[inner][0],
        "num_layers": _count(numbers, f"the blocks of {what}"),
        "num_heads": heads,
        "relative_attention_num_buckets": buckets,
        "feed_forward_proj": "gated-gelu" if inner == gated else "relu",
    }


def _shapes(tensors: Tensors, axes: Mapping[str, int], what: str) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors named in ``axes``, of so many axes each, none of them empty."""
    problems = [f"missing {name}" for name in axes if name not in tensors]
    shapes = {name: tuple(tensors[name].shape) for name in axes if name in tensors}
    problems += [
        f"{name} has shape {shape} and not {axes[name]} axes"
        for name, shape in shapes.items()
        if len(shape) != axes[name] or 0 in shape
    ]
    if problems:
        raise UserError(f"{what} is incomplete: {'; '.join(problems)}")
    return shapes


def _heads(width: int, head: int, what: str) -> int:
    if width % head:
        raise UserError(
            f"{what} has a width of {width}, which heads of {head} channels do not divide: give config=DIR, a"
            " pipeline folder that says how many heads there are"
        )
    return width // head


def _count(numbers: Iterable[str], what: str) -> int:
    """How many there are of what is numbered from 0."""
    found = sorted({int(number) for number in numbers})
    if not found or found[-1] != len(found) - 1:
        raise UserError(f"{what} are incomplete: there are those numbered {found}, and not all from 0 on")
    return len(found)
