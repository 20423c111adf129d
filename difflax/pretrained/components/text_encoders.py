"""Which text encoders a pipeline folder has, and how its class reads them.

Stable Diffusion reads one tower's last state after its final norm. Stable Diffusion XL (Podell et al. 2023,
https://arxiv.org/abs/2307.01952, section 2.1) reads the states before the last layer, without a norm, of
CLIP-L and OpenCLIP-bigG side by side, and the projected pooled vector of the second; its refiner has the
second alone.
"""

from collections.abc import Mapping
from typing import Any

from etils import epath

from difflax.core.types import UserError
from difflax.pretrained.components.clip import load_text_encoder, save_text_encoder
from difflax.text.encoders import TextEncoder
from difflax.text.joined import JoinedEncoder, towers
from difflax.text.prompts import PromptEncoder

PENULTIMATE = {"layer": -2, "final_norm": False}


def is_xl(index: Mapping[str, Any]) -> bool:
    """Whether a ``model_index.json`` is of Stable Diffusion XL or its refiner."""
    return str(index.get("_class_name", "")).removeprefix("Flax").startswith("StableDiffusionXL")


def load_text_encoders(
    folder: epath.PathLike, index: Mapping[str, Any], *, dtype: Any, variant: str | None
) -> PromptEncoder:
    """The text encoders that the pipeline's ``model_index.json`` names, as its class reads them.

    Args:
        dtype: of the computation and of the parameters.
        variant: of the weights, ``"fp16"``.

    Raises:
        UserError: an encoder is missing, damaged, or not supported.
    """
    folder = epath.Path(folder)
    options = {"dtype": dtype, "param_dtype": dtype, "variant": variant, "batch_size": 8}
    if not is_xl(index):
        return load_text_encoder(folder, **options)
    for name in ("text_encoder_2", "tokenizer_2"):
        if not has_component(index, name) or not (folder / name).is_dir():
            raise UserError(
                f"no {name} in {folder}: {index['_class_name']} reads the states of two text encoders (its"
                " refiner of the second); fetch it again"
            )
    second = load_text_encoder(folder, number=2, **PENULTIMATE, **options)
    if "text_projection" not in second.params:
        raise UserError(
            f"text_encoder_2 in {folder} has no text_projection, which Stable Diffusion XL's pooled vector"
            " goes through: a CLIPTextModelWithProjection is needed"
        )
    if not has_component(index, "text_encoder"):
        return second
    return joined_xl(load_text_encoder(folder, **PENULTIMATE, **options), second)


def joined_xl(first: TextEncoder, second: TextEncoder) -> JoinedEncoder:
    """Both towers of Stable Diffusion XL as its UNet reads them."""
    return JoinedEncoder((first, second), along="features", pooled=(1,))


def numbered_towers(encoder: PromptEncoder, index: Mapping[str, Any]) -> dict[int, PromptEncoder]:
    """The encoders with weights by their number in a pipeline, from 1; a refiner's only one is the second.

    Args:
        index: the pipeline's ``model_index.json``, empty for a model of none.
    """
    parts = towers(encoder)
    first = 2 if is_xl(index) and len(parts) == 1 else 1
    return {n: tower for n, tower in enumerate(parts, start=first) if hasattr(tower, "params")}


def named_towers(encoder: PromptEncoder, index: Mapping[str, Any]) -> dict[str, PromptEncoder]:
    """The same by the names of their folders: ``text_encoder``, ``text_encoder_2``, …"""
    numbered = numbered_towers(encoder, index)
    return {"text_encoder" + f"_{number}" * (number > 1): tower for number, tower in numbered.items()}


def save_text_encoders(
    encoder: PromptEncoder, index: Mapping[str, Any], folder: epath.PathLike
) -> dict[str, list[str | None]]:
    """Writes the encoders and their tokenizers; returns their entries of ``model_index.json``."""
    numbered = numbered_towers(encoder, index)
    entries: dict[str, list[str | None]] = {}
    for number, tower in numbered.items():
        suffix = "" if number == 1 else f"_{number}"
        save_text_encoder(tower, folder, number=number)
        projects = "text_projection" in tower.params
        entries[f"text_encoder{suffix}"] = ["transformers", f"CLIPTextModel{'WithProjection' * projects}"]
        entries[f"tokenizer{suffix}"] = ["transformers", "CLIPTokenizer"]
    if 1 not in numbered:
        entries |= {"text_encoder": [None, None], "tokenizer": [None, None]}
    return entries


def has_component(index: Mapping[str, Any], name: str) -> bool:
    """Whether a ``model_index.json`` names a component."""
    entry = index.get(name)
    return bool(entry) and entry[0] is not None
