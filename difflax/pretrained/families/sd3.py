"""Stable Diffusion 3 and 3.5: three text encoders and a transformer on a straight path.

The transformer reads (Esser et al. 2024, https://arxiv.org/abs/2403.03206, section 4) the states before the
last layer, without a norm, of CLIP-L and OpenCLIP-bigG side by side, filled up with zeros to T5's width, and
after them T5's; and the projected pooled vectors of both CLIPs side by side. T5, the largest part of all, may
be left out; then zeros stand in its place.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from difflax.models.mmdit import SD3Transformer2DModel, check_latent
from difflax.pretrained.components.clip import ClipPart
from difflax.pretrained.components.scheduler_classes import FLOW
from difflax.pretrained.components.t5 import T5Part
from difflax.pretrained.components.text_encoders import EncoderOptions
from difflax.pretrained.families.family import Config, Configs, Family, PipelineClass, Strength
from difflax.pretrained.format.layout import MISSING
from difflax.pretrained.format.safetensors import Tensors
from difflax.pretrained.single_file.autoencoder import infer_autoencoder_config
from difflax.pretrained.single_file.clip import ClipTower
from difflax.pretrained.single_file.original import DENOISER, Files, Original
from difflax.pretrained.single_file.t5 import T5Tower
from difflax.pretrained.single_file.tensors import HEAD, Part, count_heads, count_of, shapes_of, thirds
from difflax.pretrained.single_file.text import Tower
from difflax.text.joined import JoinedEncoder
from difflax.text.prompts import PromptEncoder
from difflax.text.t5_encoder import ZeroEncoder


class StableDiffusion3(Family):
    """3 and 3.5."""

    def text_widths(self, network: Config) -> tuple[int, int | None]:
        return network.get("joint_attention_dim", 4096), network.get("pooled_projection_dim", 2048)

    def reads_pooled(self, network: Config) -> bool:
        return True

    def join(
        self, encoders: Mapping[str, PromptEncoder], configs: Configs, options: EncoderOptions
    ) -> PromptEncoder:
        clips = JoinedEncoder(
            (encoders[_CLIP_L.name], encoders[_BIG_G.name]), along="features", pooled=(0, 1)
        )
        zeros = ZeroEncoder(length=_T5.tokens(options), width=self.text_widths(configs.network)[0])
        return JoinedEncoder((clips, encoders.get(_T5.name, zeros)), along="tokens", pooled=(0,))


TRANSFORMER_NAMES = {
    "pos_embed": "pos_embed.pos_embed",
    "x_embedder.proj.": "pos_embed.proj.",
    "t_embedder.mlp.0.": "time_text_embed.timestep_embedder.linear_1.",
    "t_embedder.mlp.2.": "time_text_embed.timestep_embedder.linear_2.",
    "y_embedder.mlp.0.": "time_text_embed.text_embedder.linear_1.",
    "y_embedder.mlp.2.": "time_text_embed.text_embedder.linear_2.",
    "context_embedder.": "context_embedder.",
    "final_layer.linear.": "proj_out.",
    "final_layer.adaLN_modulation.1.": "norm_out.linear.",
}
IMAGE_NAMES = {
    "attn.qkv.": "attn.to_{}.",
    "attn.proj.": "attn.to_out.0.",
    "attn.ln_q.": "attn.norm_q.",
    "attn.ln_k.": "attn.norm_k.",
    "attn2.qkv.": "attn2.to_{}.",
    "attn2.proj.": "attn2.to_out.0.",
    "attn2.ln_q.": "attn2.norm_q.",
    "attn2.ln_k.": "attn2.norm_k.",
    "adaLN_modulation.1.": "norm1.linear.",
    "mlp.fc1.": "ff.net.0.proj.",
    "mlp.fc2.": "ff.net.2.",
}
TEXT_NAMES = {
    "attn.qkv.": "attn.add_{}_proj.",
    "attn.proj.": "attn.to_add_out.",
    "attn.ln_q.": "attn.norm_added_q.",
    "attn.ln_k.": "attn.norm_added_k.",
    "adaLN_modulation.1.": "norm1_context.linear.",
    "mlp.fc1.": "ff_context.net.0.proj.",
    "mlp.fc2.": "ff_context.net.2.",
}


def transformer_names(tensors: Tensors, config: Config) -> Tensors:
    """The tensors of a transformer of ``config`` by diffusers' names; one that has no place there keeps its
    name in the file.

    Queries, keys and values are one matrix in the file. Where a norm is followed by nothing but a shift and a
    scale (at the end, and for the text of the last block) the file has the shift first, diffusers the scale.
    """
    last = config.get("num_layers", 18) - 1
    swapped = ("final_layer.adaLN_modulation.", f"joint_blocks.{last}.context_block.adaLN_modulation.")
    named: dict[str, Any] = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(r"joint_blocks\.(\d+)\.(x|context)_block\.(.*)", name)
        layer, side, rest = match.groups() if match else (None, None, name)
        table = {"x": IMAGE_NAMES, "context": TEXT_NAMES, None: TRANSFORMER_NAMES}[side]
        old = next((old for old in table if rest.startswith(old)), None)
        if old is None:
            named[DENOISER + name] = tensor
        else:
            new = table[old] + rest.removeprefix(old)
            new = new if layer is None else f"transformer_blocks.{layer}.{new}"
            if "qkv" in old:
                named |= {new.format(part): rows for part, rows in zip("qkv", thirds(tensor), strict=True)}
            elif name.startswith(swapped):
                named[new] = Part(tensor, swapped=True)
            else:
                named[new] = tensor
    return named


def infer(
    transformer: Tensors, autoencoder: Tensors, found: Sequence[Tower], prediction_type: str | None
) -> Files:
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
    shapes = shapes_of(transformer, axes | ({norm: 1} if has_norms else {}), what)
    width, channels, patch, _ = shapes["x_embedder.proj.weight"]
    head = shapes[norm][0] if has_norms else HEAD
    blocks = [m for n in transformer if (m := re.match(r"joint_blocks\.(\d+)\.(x_block\.attn2\.)?", n))]
    config = {
        "_class_name": SD3Transformer2DModel.__name__,
        "sample_size": 128,
        "patch_size": patch,
        "in_channels": channels,
        "out_channels": shapes["final_layer.linear.weight"][0] // patch**2,
        "num_layers": count_of((m[1] for m in blocks), f"the joint_blocks of {what}"),
        "attention_head_dim": head,
        "num_attention_heads": count_heads(width, head, what),
        "joint_attention_dim": shapes["context_embedder.weight"][1],
        "caption_projection_dim": width,
        "pooled_projection_dim": shapes["y_embedder.mlp.0.weight"][1],
        "pos_embed_max_size": math.isqrt(shapes["pos_embed"][1]),
        "dual_attention_layers": sorted({int(m[1]) for m in blocks if m[2]}),
        "qk_norm": "rms_norm" if has_norms else None,
    }
    return {
        "index": _INDEX,
        "network": config,
        "autoencoder": infer_autoencoder_config(
            autoencoder, sample_size=1024, scaling_factor=1.5305, shift_factor=0.0609
        ),
        "scheduler": {"_class_name": FLOW, "num_train_timesteps": 1000, "shift": 3.0},
    }


_CLIP = {"layer": -2, "final_norm": False, "projects": True}
_CLIP_L, _BIG_G = ClipPart(**_CLIP), ClipPart(number=2, **_CLIP)
_T5 = T5Part(number=3, optional=True, remedy="fetch it again, or leave it out with t5=False")

STABLE_DIFFUSION_3 = StableDiffusion3(
    title="Stable Diffusion 3",
    pipelines=(
        PipelineClass(name="StableDiffusion3Pipeline"),
        PipelineClass(name="StableDiffusion3Img2ImgPipeline", num_steps=50),
        PipelineClass(name="StableDiffusion3InpaintPipeline", reads=("text", "mask"), num_steps=50),
    ),
    network=SD3Transformer2DModel,
    sample_size=128,
    text=(_CLIP_L, _BIG_G, _T5),
    guidance_scale=7.0,
    num_steps=28,
    strength=Strength(picture=0.6, mask=0.6, rounds="up"),
    check_latent=check_latent,
    original=Original(
        mark=f"{DENOISER}joint_blocks.",
        towers=(
            # diffusers and Stability's code leave the first's pooled vector as it is, too.
            ClipTower(prefix="text_encoders.clip_l.transformer.", part=_CLIP_L, whole=True, identity=True),
            ClipTower(
                prefix="text_encoders.clip_g.transformer.",
                part=_BIG_G,
                open_clip=True,
                renamed=True,
                whole=True,
            ),
            T5Tower(prefix="text_encoders.t5xxl.transformer.", part=_T5),
        ),
        denoiser_names=transformer_names,
        infer=infer,
        example="stabilityai/stable-diffusion-3.5-medium",
    ),
)

_INDEX = {
    "_class_name": STABLE_DIFFUSION_3.pipelines[0].name,
    "_diffusers_version": "0.36.0",
    "feature_extractor": MISSING,
    "image_encoder": MISSING,
    "scheduler": ["diffusers", FLOW],
    "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "transformer": ["diffusers", "SD3Transformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
"""Of a file, which has none."""
