"""The names that CompVis' and Stability's code gives tensors, turned into diffusers' and transformers'.

Nothing is read: a tensor that has another form there becomes a `Part` of it.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from difflax.pretrained.tensor_files import Tensors


@dataclasses.dataclass(frozen=True)
class Part:
    """Rows of a stored tensor, without its last axes of size 1 where ``flat``, or the whole ``turned``;
    ``numpy.asarray`` reads it.
    """

    tensor: Any
    rows: tuple[int | None, int | None] = (None, None)
    flat: bool = False
    turned: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        shape = tuple(self.tensor.shape)
        shape = (len(range(*slice(*self.rows).indices(shape[0]))), *shape[1:])
        return shape[:2] if self.flat else shape[::-1] if self.turned else shape

    @property
    def dtype(self) -> np.dtype:
        return self.tensor.dtype

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = np.asarray(self.tensor)[slice(*self.rows)]
        if self.flat:
            array = array.reshape(array.shape[:2])
        if self.turned:
            array = array.T
        return array if dtype is None else array.astype(dtype)


def unet_names(tensors: Tensors, layers: int, *, xl: bool = False) -> Tensors:
    """The UNet's tensors by diffusers' names; ``layers`` residual blocks a level. ``xl``: of Stable Diffusion
    XL, where the vector beside the time is of text and sizes.
    """
    vector = "add_embedding" if xl else "class_embedding"
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
        "label_emb.0.0": f"{vector}.linear_1",
        "label_emb.0.2": f"{vector}.linear_2",
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
            last, width = rest.removeprefix("attn.in_proj_"), tensor.shape[0] // 3
            for i, part in enumerate("qkv"):
                rows = (i * width, (i + 1) * width)
                named[f"{prefix}self_attn.{part}_proj.{last}"] = Part(tensor, rows=rows)
        else:
            named[prefix + _replaced(rest, inside)] = tensor
    named = {f"text_model.{name}": tensor for name, tensor in named.items()}
    if projection and "text_projection" in tensors:
        named["text_projection.weight"] = Part(tensors["text_projection"], turned=True)
    return named


def _replaced(name: str, pieces: Mapping[str, str]) -> str:
    """``name`` with the first of ``pieces`` that stands at its start or after a dot replaced."""
    for old, new in pieces.items():
        if name.startswith(old):
            return new + name[len(old) :]
        before, found, after = name.partition("." + old)
        if found:
            name = f"{before}.{new}{after}"
    return name
