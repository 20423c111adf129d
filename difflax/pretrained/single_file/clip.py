"""A CLIP text tower in a file in the original layout.

It is transformers' CLIP, or OpenCLIP's with queries, keys and values in one matrix, which some files have by
transformers' names.
"""

import dataclasses
import re
from typing import Any

import numpy as np

from difflax.core.documents import read_json
from difflax.pretrained.components.clip import ClipPart, load_text_encoder_from
from difflax.pretrained.components.text_encoders import EncoderOptions
from difflax.pretrained.format.layout import CONFIG
from difflax.pretrained.format.safetensors import Tensors
from difflax.pretrained.single_file.tensors import (
    HEAD,
    Part,
    count_heads,
    count_of,
    replaced,
    shapes_of,
    thirds,
)
from difflax.pretrained.single_file.text import Beside, Tower
from difflax.text.encoders import TextEncoder
from difflax.text.tokenizer import Tokenizer, load_tokenizer

CLIP_TOKENIZER = "openai/clip-vit-large-patch14"
"""On the Hub."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipTower(Tower):
    """A CLIP text tower.

    Attributes:
        open_clip: it is OpenCLIP's.
        renamed: all the same it has transformers' names.
        whole: with an OpenCLIP tower's last layer and its projection, which not all models read.
        identity: its pooled vector is not projected where another's is: the projection is the identity,
            whatever the file has.
    """

    part: ClipPart
    open_clip: bool = False
    renamed: bool = False
    whole: bool = False
    identity: bool = False

    def load(self, tensors: Tensors, beside: Beside, where: str, options: EncoderOptions) -> TextEncoder:
        tensors = dict(tensors)
        token = "text_model.embeddings.token_embedding.weight"
        if self.identity and token in tensors:
            width = tensors[token].shape[-1] if tensors[token].shape else 0
            tensors["text_projection.weight"] = np.eye(width, dtype=np.float32)
        if beside.folder is None:
            config = infer_text_config(tensors, second=self.open_clip, whole=self.whole, renamed=self.renamed)
        else:
            config = read_json(beside.folder / self.part.name / CONFIG)
        if self.open_clip and not self.renamed:
            tensors = open_clip_names(tensors, config["num_hidden_layers"], projection=self.whole)
        return load_text_encoder_from(
            config,
            tensors,
            lambda length: self._tokenizer(beside, length),
            where,
            **self.part.states,
            **options.loading,
        )

    def _tokenizer(self, beside: Beside, length: int) -> Tokenizer:
        if beside.folder is not None and beside.tokenizer is None:
            return load_tokenizer(beside.folder / self.part.tokenizer, max_length=length)
        source = CLIP_TOKENIZER if beside.tokenizer is None else beside.tokenizer
        loaded = load_tokenizer(source, max_length=length)
        if self.open_clip:
            # OpenCLIP pads with id 0; a special token, as in the tokenizers of pipeline folders.
            loaded.backend.add_special_tokens({"pad_token": "!"})
        return loaded


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
    tensors = dict(tensors)
    projected = tensors.pop("text_projection", None)
    for name, tensor in tensors.items():
        match = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.*)", name)
        if match is None:
            named[outside.get(name, name)] = tensor
            continue
        layer, rest = int(match[1]), match[2]
        if layer >= layers:
            continue
        prefix = f"encoder.layers.{layer}."
        if rest.startswith("attn.in_proj_"):
            last = rest.removeprefix("attn.in_proj_")
            for part, rows in zip("qkv", thirds(tensor), strict=True):
                named[f"{prefix}self_attn.{part}_proj.{last}"] = rows
        else:
            named[prefix + replaced(rest, inside)] = tensor
    named = {f"text_model.{name}": tensor for name, tensor in named.items()}
    if projection and projected is not None:
        named["text_projection.weight"] = Part(projected, turned=True)
    return named


def infer_text_config(
    text: Tensors, *, second: bool, whole: bool = False, renamed: bool = False
) -> dict[str, Any]:
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
    shapes = shapes_of(text, axes, what)
    blocks = r"transformer\.resblocks\.(\d+)\." if own else r"text_model\.encoder\.layers\.(\d+)\."
    count = count_of((m[1] for n in text if (m := re.match(blocks, n))), f"the layers of {what}")
    vocab, width = shapes[token]
    return {
        "model_type": "clip_text_model",
        "architectures": [f"CLIPTextModel{'WithProjection' * projects}"],
        "projection_dim": shapes[projection][1 if own else 0] if projects else width,
        "vocab_size": vocab,
        "hidden_size": width,
        "intermediate_size": shapes[f"{inner}.weight"][0],
        "num_hidden_layers": count - 1 if second and not whole else count,
        "num_attention_heads": count_heads(width, HEAD, what),
        "max_position_embeddings": shapes[position][0],
        "hidden_act": "gelu" if second else "quick_gelu",
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }
