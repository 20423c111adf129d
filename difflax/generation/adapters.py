"""A model with the files of others in it: LoRA and textual inversion."""

import dataclasses
from collections.abc import Sequence

from etils import epath

from difflax.generation.model import Model
from difflax.pretrained.adapters.lora import merge_lora
from difflax.pretrained.adapters.textual_inversion import add_word, read_word
from difflax.pretrained.families.base import networks_of, put_networks


def with_lora(model: Model, loras: Sequence[tuple[epath.PathLike, float]]) -> Model:
    """The model with LoRA files merged in, each ``(file or folder, weight)``.

    Raises:
        UserError: a file that is none, or of another model; see `read_lora`.
    """
    networks = networks_of(model.configs, model.params, model.text_encoder)
    for path, weight in loras:
        networks = merge_lora(path, networks, weight)
    params, encoder = put_networks(model.configs, model.text_encoder, networks)
    return dataclasses.replace(model, params=params).with_text_encoder(encoder)


def with_textual_inversion(model: Model, path: epath.PathLike, token: str | None = None) -> Model:
    """The model with the token of a textual inversion's file; prompts may then name it.

    Args:
        token: how prompts name it; ``None``: as the file does, or as it is named (A1111, Stable Diffusion
            XL).

    Raises:
        UserError: no such file, one of another model, or a token that the tokenizer already has.
    """
    return model.with_text_encoder(add_word(model.text_encoder, read_word(path, token)))
