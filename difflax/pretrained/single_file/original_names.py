"""The names that CompVis' and Stability's code gives tensors, turned into diffusers' and transformers'.

Nothing is read: a tensor that has another form there becomes a `Part` of it.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from difflax.core.types import UserError
from difflax.pretrained.format.safetensors import Tensors

DENOISER, VAE = "model.diffusion_model.", "first_stage_model."
"""What stands before the names of UNet or transformer, and of the autoencoder."""


@dataclasses.dataclass(frozen=True)
class Part:
    """Rows of a stored tensor, without its last axes of size 1 where ``flat``, with the second half of rows
    before the first where ``swapped``, or the whole ``turned``; ``numpy.asarray`` reads it.
    """

    tensor: Any
    rows: tuple[int | None, int | None] = (None, None)
    flat: bool = False
    swapped: bool = False
    turned: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        shape = tuple(self.tensor.shape)
        if shape:
            shape = (len(range(*slice(*self.rows).indices(shape[0]))), *shape[1:])
        return shape[:2] if self.flat else shape[::-1] if self.turned else shape

    @property
    def dtype(self) -> np.dtype:
        return self.tensor.dtype

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = np.asarray(self.tensor[slice(*self.rows)])
        if self.flat:
            array = array.reshape(array.shape[:2])
        if self.swapped:
            array = np.roll(array, len(array) // 2, axis=0)
        if self.turned:
            array = array.T
        return array if dtype is None else array.astype(dtype)


def grouped(tensors: Tensors, prefixes: Iterable[str]) -> dict[str, Tensors]:
    """The tensors under each of ``prefixes``, without it."""
    return {
        prefix: {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        for prefix in prefixes
    }


def check_strays(tensors: Tensors, groups: Iterable[str], where: Any) -> None:
    """Refuses tensors that are under none of the prefixes ``groups``, and names each."""
    stray = sorted(n for n in tensors if not n.startswith(tuple(groups)))
    if stray:
        raise UserError(f"the weights do not fit {where}: {'; '.join(f'unexpected {n}' for n in stray)}")


UNET = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
    "middle_block.0": "mid_block.resnets.0",
    "middle_block.1": "mid_block.attentions.0",
    "middle_block.2": "mid_block.resnets.1",
}
RESNET = {
    "in_layers.0.": "norm1.",
    "in_layers.2.": "conv1.",
    "emb_layers.1.": "time_emb_proj.",
    "out_layers.0.": "norm2.",
    "out_layers.3.": "conv2.",
    "skip_connection.": "conv_shortcut.",
}


def unet_names(tensors: Tensors, layers: int, *, xl: bool = False) -> Tensors:
    """The UNet's tensors by diffusers' names; ``layers`` residual blocks a level. ``xl``: of Stable Diffusion
    XL, where the vector beside the time is of text and sizes.
    """
    vector = "add_embedding" if xl else "class_embedding"
    attentions = {name.rsplit(".norm.", 1)[0] for name in tensors if name.endswith(".norm.weight")}
    fixed = UNET | {"label_emb.0.0": f"{vector}.linear_1", "label_emb.0.2": f"{vector}.linear_2"}

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

    return {_replaced(place(name), RESNET): tensor for name, tensor in tensors.items()}


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


def open_clip_names(tensors: Tensors, layers: int, *, projection: bool = False) -> Tensors:
    """The first ``layers`` layers of an OpenCLIP text tower, by transformers' names, with its projection if
    asked for.

    Stable Diffusion 2 reads the state before the last layer, which diffusers therefore leaves out, and has no
    use for the projection; XL's pooled vector needs the whole.
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
            last = rest.removeprefix("attn.in_proj_")
            for part, rows in zip("qkv", _thirds(tensor), strict=True):
                named[f"{prefix}self_attn.{part}_proj.{last}"] = rows
        else:
            named[prefix + _replaced(rest, inside)] = tensor
    named = {f"text_model.{name}": tensor for name, tensor in named.items()}
    if projection and "text_projection" in tensors:
        named["text_projection.weight"] = Part(tensors["text_projection"], turned=True)
    return named


MMDIT = {
    "x_embedder.proj.": "pos_embed.proj.",
    "t_embedder.mlp.0.": "time_text_embed.timestep_embedder.linear_1.",
    "t_embedder.mlp.2.": "time_text_embed.timestep_embedder.linear_2.",
    "y_embedder.mlp.0.": "time_text_embed.text_embedder.linear_1.",
    "y_embedder.mlp.2.": "time_text_embed.text_embedder.linear_2.",
    "context_embedder.": "context_embedder.",
    "final_layer.linear.": "proj_out.",
    "final_layer.adaLN_modulation.1.": "norm_out.linear.",
}
MMDIT_IMAGE = {
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
MMDIT_TEXT = {
    "attn.qkv.": "attn.add_{}_proj.",
    "attn.proj.": "attn.to_add_out.",
    "attn.ln_q.": "attn.norm_added_q.",
    "attn.ln_k.": "attn.norm_added_k.",
    "adaLN_modulation.1.": "norm1_context.linear.",
    "mlp.fc1.": "ff_context.net.0.proj.",
    "mlp.fc2.": "ff_context.net.2.",
}


def mmdit_names(tensors: Tensors, layers: int) -> Tensors:
    """The tensors of Stable Diffusion 3's transformer of ``layers`` blocks by diffusers' names; one that has
    no place there keeps its name in the file.

    Queries, keys and values are one matrix in the file. Where a norm is followed by nothing but a shift and a
    scale (at the end, and for the text of the last block) the file has the shift first, diffusers the scale.
    """
    named: dict[str, Any] = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(r"joint_blocks\.(\d+)\.(x|context)_block\.(.*)", name)
        layer, side, rest = match.groups() if match else (None, None, name)
        table = {"x": MMDIT_IMAGE, "context": MMDIT_TEXT, None: MMDIT}[side]
        old = next((old for old in table if rest.startswith(old)), None)
        if name == "pos_embed":
            named["pos_embed.pos_embed"] = tensor
        elif old is None:
            named[DENOISER + name] = tensor
        else:
            new = table[old] + rest.removeprefix(old)
            new = new if layer is None else f"transformer_blocks.{layer}.{new}"
            if "qkv" in old:
                named |= {new.format(part): rows for part, rows in zip("qkv", _thirds(tensor), strict=True)}
            elif "adaLN" in old and (layer is None or (side == "context" and int(layer) == layers - 1)):
                named[new] = Part(tensor, swapped=True)
            else:
                named[new] = tensor
    return named


def _thirds(tensor: Any) -> list[Any]:
    """Its rows in three parts, the last with what is too much."""
    third = (tensor.shape or (0,))[0] // 3
    return [Part(tensor, rows=rows) for rows in ((0, third), (third, 2 * third), (2 * third, None))]


def _replaced(name: str, pieces: Mapping[str, str]) -> str:
    """``name`` with the first of ``pieces`` that stands at its start or after a dot replaced."""
    for old, new in pieces.items():
        if name.startswith(old):
            return new + name[len(old) :]
        before, found, after = name.partition("." + old)
        if found:
            name = f"{before}.{new}{after}"
    return name
