"""A pipeline's text encoders: which it has, and how each is read and written.

Each kind of encoder (CLIP, T5, …) is one subclass of `TextPart`, in the file of its component; a family of
checkpoints has a tuple of them.
"""

import abc
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
from etils import epath

from difflax.core.types import UserError
from difflax.pretrained.format.layout import MISSING, TEXT_ENCODER, TOKENIZER, has_component, numbered
from difflax.text.prompts import PromptEncoder

_BATCH = 8
"""Prompts in one call of a text encoder."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderOptions:
    """What is asked of a checkpoint's text encoders.

    Attributes:
        dtype: of the computation and of the parameters.
        variant: of the weights, ``"fp16"``.
        t5: ``False`` leaves T5 out, also where the checkpoint has it.
        t5_length: tokens that T5 gives a prompt, or zeros in its place; ``None``: the family's.

    Raises:
        UserError: a length that cannot be.
    """

    dtype: Any = jnp.float32
    variant: str | None = None
    t5: bool | None = None
    t5_length: int | None = None

    def __post_init__(self):
        if self.t5_length is not None and self.t5_length < 1:
            raise UserError(f"t5_length = {self.t5_length} must be at least 1")

    @property
    def loading(self) -> dict[str, Any]:
        """The arguments that all loaders have."""
        return {"dtype": self.dtype, "param_dtype": self.dtype, "batch_size": _BATCH}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextPart(abc.ABC):
    """One text encoder of a pipeline, with its tokenizer.

    Attributes:
        number: among them, from 1: 2 is ``text_encoder_2/`` and ``tokenizer_2/``.
        own_options: the `EncoderOptions` that only a part of this kind reads.
        optional: a pipeline may be without it.
        remedy: what to do about a folder without it.
    """

    own_options: ClassVar[tuple[str, ...]] = ()

    number: int = 1
    optional: bool = False
    remedy: str = "fetch it again"

    @property
    def name(self) -> str:
        """Of its folder."""
        return numbered(TEXT_ENCODER, self.number)

    @property
    def tokenizer(self) -> str:
        """Of its tokenizer's folder."""
        return numbered(TOKENIZER, self.number)

    def left_out(self, options: EncoderOptions) -> bool:
        """Whether ``options`` ask for none of it."""
        return False

    def check(self, folder: epath.Path, index: Mapping[str, Any], reader: str) -> None:
        """Whether a pipeline folder has it; ``reader``: whose pipeline it is.

        Raises:
            UserError: it has not.
        """
        for name in (self.name, self.tokenizer):
            if not has_component(index, name) or not (folder / name).is_dir():
                raise UserError(f"no {name} in {folder}, with which {reader} reads prompts: {self.remedy}")

    @abc.abstractmethod
    def load(self, folder: epath.Path, options: EncoderOptions) -> PromptEncoder:
        """That of a pipeline folder.

        Raises:
            UserError: it is damaged, or of another kind.
        """

    def problem(self, encoder: PromptEncoder, reader: str) -> str:
        """What is wrong with an encoder for ``reader``, the end of a sentence about it; empty: nothing."""
        return ""

    @abc.abstractmethod
    def save(self, encoder: PromptEncoder, folder: epath.Path) -> None:
        """Writes it into a pipeline folder, as diffusers and transformers read it."""

    @abc.abstractmethod
    def classes(self, encoder: PromptEncoder) -> tuple[str, str]:
        """transformers' classes of the encoder and its tokenizer."""

    def entries(self, encoder: PromptEncoder) -> dict[str, list[str]]:
        """Its lines in ``model_index.json``."""
        names = (self.name, self.tokenizer)
        return {n: ["transformers", kind] for n, kind in zip(names, self.classes(encoder), strict=True)}


def load_text_encoders(
    folder: epath.Path,
    parts: Iterable[TextPart],
    index: Mapping[str, Any],
    reader: str,
    options: EncoderOptions,
) -> dict[str, PromptEncoder]:
    """Those of ``parts`` that a pipeline folder has to have or has, by name.

    Raises:
        UserError: one is missing, damaged, or not supported.
    """
    wanted = [
        part
        for part in parts
        if not part.left_out(options) and (not part.optional or has_component(index, part.name))
    ]
    for part in wanted:
        part.check(folder, index, reader)
    return {part.name: part.load(folder, options) for part in wanted}


def named_towers(encoder: PromptEncoder, parts: Sequence[TextPart]) -> dict[str, PromptEncoder]:
    """The encoders with weights that ``encoder`` is made of, by the names of their folders.

    Args:
        parts: of the pipeline; where a first one may be missing, the last ones are there. Empty for a model
            that came from no checkpoint.
    """
    names = tower_names(encoder, parts)
    return {
        name: tower for name, tower in zip(names, encoder.towers, strict=True) if hasattr(tower, "params")
    }


def tower_names(encoder: PromptEncoder, parts: Sequence[TextPart]) -> list[str]:
    """What the encoders that ``encoder`` is made of are called; ``parts`` as for `named_towers`."""
    count = len(encoder.towers)
    return [part.name for part in parts[-count:]] or [numbered(TEXT_ENCODER, n + 1) for n in range(count)]


def save_text_encoders(
    encoder: PromptEncoder, parts: Sequence[TextPart], folder: epath.Path
) -> dict[str, list[str | None]]:
    """Writes the encoders and their tokenizers; returns the lines of ``parts`` in ``model_index.json``."""
    made = named_towers(encoder, parts)
    entries: dict[str, list[str | None]] = {}
    for part in parts:
        if part.name in made:
            part.save(made[part.name], folder)
            entries |= part.entries(made[part.name])
        else:
            entries |= {part.name: MISSING, part.tokenizer: MISSING}
    return entries
