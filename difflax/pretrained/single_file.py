"""Original-layout Stable Diffusion 1.x and 2.x checkpoints, all components in one safetensors file.

The file names tensors as CompVis' and Stability's code does: ``model.diffusion_model.`` is the UNet,
``first_stage_model.`` the autoencoder, ``cond_stage_model.`` the text encoder (1.x: transformers' CLIP, 2.x:
OpenCLIP with queries, keys and values in one matrix). Names become diffusers', and nothing is read before it
is asked for. What a file does not hold (tokenizer, scheduler) comes from the family, or from a pipeline
folder that is given as a pattern.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from difflax.pretrained.clip import load_text_encoder_from
from difflax.pretrained.hub import fetch
from difflax.pretrained.names import check_names
from difflax.pretrained.stable_diffusion import Config, Configs, StableDiffusion, assemble, read_configs
from difflax.pretrained.tensor_files import PICKLES, Tensors, open_file, read_json, refusal
from difflax.text.tokenizer import Tokenizer, load_tokenizer
from difflax.types import UserError

UNET, VAE = "model.diffusion_model.", "first_stage_model."
CLIP, OPEN_CLIP = "cond_stage_model.transformer.", "cond_stage_model.model."

_TRAINING_LEFTOVERS = re.compile(
    r"model_ema\.|(alphas_cumprod|betas|log_one_minus|posterior_|sqrt_|lvlb_weights|logvar|scale_factor)"
    r"|global_step|first_stage_model\.loss\.|model\.ema|cond_stage_model\.model\.(logit_scale|attn_mask)"
    r"|cond_stage_model\.(logit_scale|.*position_ids)"
)
TOKENIZER = "openai/clip-vit-large-patch14"
_BETAS = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "clip_sample": False,
}


@dataclasses.dataclass(frozen=True)
class Part:
    """Rows of a stored tensor, without its last axes of size 1 where ``flat``; ``numpy.asarray`` reads it."""

    tensor: Any
    rows: tuple[int | None, int | None] = (None, None)
    flat: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        shape = tuple(self.tensor.shape)
        shape = (len(range(*slice(*self.rows).indices(shape[0]))), *shape[1:])
        return shape[:2] if self.flat else shape

    @property
    def dtype(self) -> np.dtype:
        return self.tensor.dtype

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = np.asarray(self.tensor)[slice(*self.rows)]
        if self.flat:
            array = array.reshape(array.shape[:2])
        return array if dtype is None else array.astype(dtype)


def load_single_file(
    path: epath.PathLike,
    *,
    dtype: Any,
    config: epath.PathLike | None = None,
    tokenizer: epath.PathLike | None = None,
    prediction_type: str | None = None,
) -> StableDiffusion:
    """The checkpoint in one file.

    Args:
        path: a ``.safetensors`` file.
        dtype: of the computation and of the parameters.
        config: a pipeline folder or Hub id whose configs and tokenizer are taken; ``None`` finds the
            structure from the tensors' names and shapes.
        tokenizer: a folder or Hub id; ``None`` takes ``config``'s, or CLIP's own from the Hub.
        prediction_type: ``"epsilon"`` or ``"v_prediction"``, which 2.x files do not tell.

    Raises:
        UserError: a file that is damaged, of another family, or does not fit the configs.
    """
    path = epath.Path(path)
    if path.suffix in PICKLES:
        raise UserError(refusal(path))
    tensors = {n: t for n, t in open_file(path).items() if not _TRAINING_LEFTOVERS.match(n)}
    groups = {prefix: _under(tensors, prefix) for prefix in (UNET, VAE, CLIP, OPEN_CLIP)}
    absent = [name for name in (UNET, VAE) if not groups[name]]
    if absent or not (groups[CLIP] or groups[OPEN_CLIP]):
        raise UserError(
            f"{path} is no Stable Diffusion 1.x or 2.x checkpoint in the original layout: it has no tensors"
            f" under {' and '.join(absent) or 'cond_stage_model.'}"
        )
    stray = sorted(n for n in tensors if not n.startswith(tuple(groups)))
    if stray:
        raise UserError(f"the weights do not fit {path}: {'; '.join(f'unexpected {n}' for n in stray)}")
    second = not groups[CLIP]
    if config is None:
        configs = infer_configs(groups[UNET], groups[VAE], second=second, prediction_type=prediction_type)
        text_config = infer_text_config(groups[OPEN_CLIP] if second else groups[CLIP], second=second)
    else:
        folder = fetch(config)
        configs = read_configs(folder)
        text_config = read_json(folder / "text_encoder" / "config.json")
        tokenizer = folder / "tokenizer" if tokenizer is None else tokenizer
        if prediction_type is not None:
            configs = dataclasses.replace(
                configs, scheduler=configs.scheduler | {"prediction_type": prediction_type}
            )
    where = f"in {path}"
    model, codec, _ = configs.build(dtype)
    unet = unet_names(groups[UNET], configs.unet.get("layers_per_block", 2))
    vae = vae_names(groups[VAE], len(codec.config.block_out_channels))
    check_names(unet, model.abstract(), f"the UNet {where}")
    check_names(vae, codec.network.abstract(), f"the autoencoder {where}")
    text = open_clip_names(groups[OPEN_CLIP], text_config["num_hidden_layers"]) if second else groups[CLIP]
    encoder = load_text_encoder_from(
        text_config,
        text,
        lambda length: _tokenizer(tokenizer, length, second),
        where,
        batch_size=8,
        dtype=dtype,
        param_dtype=dtype,
    )
    return assemble(configs, unet, vae, encoder, where, dtype=dtype)


def unet_names(tensors: Tensors, layers: int) -> Tensors:
    """The UNet's tensors by diffusers' names; ``layers`` residual blocks a level."""
    attentions = {name.rsplit(".norm.", 1)[0] for name in tensors if name.endswith(".norm.weight")}
    fixed = {
        "time_embed.0": "time_embedding.linear_1",
        "time_embed.2": "time_embedding.linear_2",
        "input_blocks.0.0": "conv_in",
        "out.0": "conv_norm_out",
        "out.2": "conv_out",
        "middle_block.0": "mid_block.resnets.0",
        "middle_block.1": "mid_block.attentions.0",
        "middle_block.2": "mid_block.resnets.1",
        "label_emb.0.0": "class_embedding.linear_1",
        "label_emb.0.2": "class_embedding.linear_2",
    }

    def place(name: str) -> str:
        for old, new in fixed.items():
            if name.startswith(old + "."):
                return new + name[len(old) :]
        match = re.fullmatch(r"(input|output)_blocks\.(\d+)\.(\d+)\.(.*)", name)
        if match is None:
            return name
        way, rest = ("down", match[4]) if match[1] == "input" else ("up", match[4])
        index, inside = int(match[2]) - (way == "down"), int(match[3])
        level, layer = divmod(index, layers + 1)
        if way == "down" and layer == layers:
            return f"down_blocks.{level}.downsamplers.0.{rest.replace('op.', 'conv.', 1)}"
        if inside == 0:
            return f"{way}_blocks.{level}.resnets.{layer}.{rest}"
        if f"{match[1]}_blocks.{match[2]}.{inside}" in attentions:
            return f"{way}_blocks.{level}.attentions.{layer}.{rest}"
        return f"{way}_blocks.{level}.upsamplers.0.{rest}"

    inside = {
        "in_layers.0.": "norm1.",
        "in_layers.2.": "conv1.",
        "emb_layers.1.": "time_emb_proj.",
        "out_layers.0.": "norm2.",
        "out_layers.3.": "conv2.",
        "skip_connection.": "conv_shortcut.",
    }
    return {_replaced(place(name), inside): tensor for name, tensor in tensors.items()}


def vae_names(tensors: Tensors, levels: int) -> Tensors:
    """The autoencoder's tensors by diffusers' names; the decoder's levels are counted from the other end."""
    inside = {
        "mid.block_1.": "mid_block.resnets.0.",
        "mid.block_2.": "mid_block.resnets.1.",
        "mid.attn_1.": "mid_block.attentions.0.",
        "nin_shortcut.": "conv_shortcut.",
        "norm_out.": "conv_norm_out.",
    }
    attention = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
    named: dict[str, Any] = {}
    for name, tensor in tensors.items():
        name = re.sub(r"^encoder\.down\.(\d+)\.block\.", r"encoder.down_blocks.\1.resnets.", name)
        name = re.sub(r"^encoder\.down\.(\d+)\.downsample\.", r"encoder.down_blocks.\1.downsamplers.0.", name)
        match = re.match(r"decoder\.up\.(\d+)\.(block|upsample)\.", name)
        if match is not None:
            kind = "resnets." if match[2] == "block" else "upsamplers.0."
            name = f"decoder.up_blocks.{levels - 1 - int(match[1])}.{kind}{name[match.end() :]}"
        name = _replaced(name, inside)
        head, found, last = name.partition("mid_block.attentions.0.")
        if found:
            layer, _, kind = last.partition(".")
            name = f"{head}{found}{attention.get(layer, layer)}.{kind}"
            # The attention's layers are 1 × 1 convolutions there.
            tensor = Part(tensor, flat=True) if len(tensor.shape) == 4 else tensor
        named[name] = tensor
    return named


def open_clip_names(tensors: Tensors, layers: int) -> Tensors:
    """The first ``layers`` layers of an OpenCLIP text tower, by transformers' names.

    Stable Diffusion 2 reads the state before the last layer, which diffusers therefore leaves out, and has no
    use for the projection.
    """
    outside = {
        "token_embedding.weight": "embeddings.token_embedding.weight",
        "positional_embedding": "embeddings.position_embedding.weight",
        "ln_final.weight": "final_layer_norm.weight",
        "ln_final.bias": "final_layer_norm.bias",
    }
    inside = {
        "ln_1.": "layer_norm1.",
        "ln_2.": "layer_norm2.",
        "attn.out_proj.": "self_attn.out_proj.",
        "mlp.c_fc.": "mlp.fc1.",
        "mlp.c_proj.": "mlp.fc2.",
    }
    named: dict[str, Any] = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.*)", name)
        if match is None:
            if name != "text_projection":
                named[outside.get(name, name)] = tensor
            continue
        layer, rest = int(match[1]), match[2]
        if layer >= layers:
            continue
        prefix = f"encoder.layers.{layer}."
        if rest.startswith("attn.in_proj_"):
            last, width = rest.removeprefix("attn.in_proj_"), tensor.shape[0] // 3
            for i, part in enumerate("qkv"):
                rows = (i * width, (i + 1) * width)
                named[f"{prefix}self_attn.{part}_proj.{last}"] = Part(tensor, rows=rows)
        else:
            named[prefix + _replaced(rest, inside)] = tensor
    return {f"text_model.{name}": tensor for name, tensor in named.items()}


def infer_configs(unet: Tensors, vae: Tensors, *, second: bool, prediction_type: str | None) -> Configs:
    """The configs that a file's names and shapes imply, with what 1.x or 2.x has in common.

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
    ups = sorted({int(m[1]) for n in vae if (m := re.match(r"encoder\.down\.(\d+)\.", n))})
    vae_widths = [vae[f"encoder.down.{i}.block.0.conv1.weight"].shape[0] for i in ups]
    vae_config = {
        "_class_name": "AutoencoderKL",
        "block_out_channels": vae_widths,
        "down_block_types": ["DownEncoderBlock2D"] * len(ups),
        "up_block_types": ["UpDecoderBlock2D"] * len(ups),
        "layers_per_block": len({n.split(".")[4] for n in vae if n.startswith("encoder.down.0.block.")}),
        "latent_channels": vae["decoder.conv_in.weight"].shape[1],
        "sample_size": 512,
        "scaling_factor": 0.18215,
        "use_quant_conv": "quant_conv.weight" in vae,
        "use_post_quant_conv": "post_quant_conv.weight" in vae,
    }
    kind = {"_class_name": "DDIMScheduler"}
    if predicts == "epsilon":
        kind = {"_class_name": "PNDMScheduler", "skip_prk_steps": True}
    scheduler = _BETAS | kind | {"prediction_type": predicts}
    return Configs(unet=unet_config, vae=vae_config, scheduler=scheduler)


def infer_text_config(text: Tensors, *, second: bool) -> Config:
    """The text tower's config; heads have 64 channels, as in all of OpenAI's and OpenCLIP's towers."""
    blocks = r"transformer\.resblocks\.(\d+)\." if second else r"text_model\.encoder\.layers\.(\d+)\."
    count = 1 + max((int(m[1]) for name in text if (m := re.match(blocks, name))), default=-1)
    token = "token_embedding.weight" if second else "text_model.embeddings.token_embedding.weight"
    inner = "transformer.resblocks.0.mlp.c_fc" if second else "text_model.encoder.layers.0.mlp.fc1"
    position = "positional_embedding" if second else "text_model.embeddings.position_embedding.weight"
    absent = [name for name in (token, f"{inner}.weight", position) if name not in text]
    if absent:
        raise UserError(f"the text encoder in the file is incomplete: missing {'; missing '.join(absent)}")
    vocab, width = text[token].shape
    return {
        "model_type": "clip_text_model",
        "architectures": ["CLIPTextModel"],
        "vocab_size": vocab,
        "hidden_size": width,
        "intermediate_size": text[f"{inner}.weight"].shape[0],
        "num_hidden_layers": count - 1 if second else count,
        "num_attention_heads": width // 64,
        "max_position_embeddings": text[position].shape[0],
        "hidden_act": "gelu" if second else "quick_gelu",
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }


def _tokenizer(source: epath.PathLike | None, length: int, second: bool) -> Tokenizer:
    if source is not None:
        return load_tokenizer(source, max_length=length)
    tokenizer = load_tokenizer(TOKENIZER, max_length=length)
    if second:
        tokenizer.backend.pad_token = "!"  # OpenCLIP pads with id 0
    return tokenizer


def _under(tensors: Tensors, prefix: str) -> dict[str, Any]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _replaced(name: str, pieces: Mapping[str, str]) -> str:
    """``name`` with the first of ``pieces`` that stands at its start or after a dot replaced."""
    for old, new in pieces.items():
        if name.startswith(old):
            return new + name[len(old) :]
        before, found, after = name.partition("." + old)
        if found:
            name = f"{before}.{new}{after}"
    return name
