"""CLIP's tokenizer: trained on one's own captions, or loaded from the Hub.

Text is normalised (NFC, white space, lower case), split into words, digits and punctuation, and every piece
is encoded by byte-pair merges over its UTF-8 bytes, the last symbol of a piece carrying ``</w>``. Any text
can be encoded, since all 256 bytes are symbols. A caption is ``<|startoftext|>``, its tokens,
``<|endoftext|>``, and as many more ``<|endoftext|>`` as fill the length.
"""

import copy
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import tempfile
import types
import warnings
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import numpy as np
from etils import epath
from jaxtyping import Int

from difflax.core.bounds import Range
from difflax.core.kinds import takes_of
from difflax.core.types import UserError

START, END = "<|startoftext|>", "<|endoftext|>"
END_OF_WORD = "</w>"
MIN_VOCAB_SIZE = 2 * 256 + 2
"""All bytes, all bytes that end a word, start and end; what is above are merges."""


NUMBER = takes_of(float)
LENGTH = takes_of(Annotated[int, Range(2, 2**16)])
"""What is read of a length that files state: transformers writes one beyond all whole numbers for none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """Captions in, rows of token ids of one length out.

    Attributes:
        backend: the tokenizer of transformers.
        max_length: tokens a row, start and end included.
    """

    backend: Any
    max_length: int

    @property
    def vocab_size(self) -> int:
        return len(self.backend)

    def __call__(self, captions: Sequence[str]) -> Int[np.ndarray, "b n"]:
        """Token ids, int32, padded to ``max_length``. The empty caption is start, end and padding.

        A caption that is too long loses its end, and a warning shows what was lost.
        """
        if isinstance(captions, str):
            raise TypeError("captions is a list of strings, not one string")
        if not captions:
            return np.zeros((0, self.max_length), np.int32)
        captions = [self.expand(caption) for caption in captions]
        rows = self.backend(captions, padding="max_length", max_length=self.max_length)["input_ids"]
        for caption, row in zip(captions, rows, strict=True):
            if len(row) > self.max_length:
                self._warn_of_cut(caption)
                row[self.max_length - 1 :] = [row[-1]]
        return np.asarray(rows, np.int32)

    def expand(self, caption: str) -> str:
        """The caption with every learned token of several vectors, ``<cat>``, as all of them,
        ``<cat> <cat>_1 …``.
        """
        for token, parts in self._of_several.items():
            caption = caption.replace(token, " ".join(parts))
        return caption

    @functools.cached_property
    def _of_several(self) -> dict[str, list[str]]:
        """The added tokens that stand for several vectors, which are named as diffusers names them."""
        added = self.backend.get_added_vocab()
        several = {}
        for token in added:
            parts = [token]
            while f"{token}_{len(parts)}" in added:
                parts.append(f"{token}_{len(parts)}")
            if len(parts) > 1:
                several[token] = parts
        return several

    def with_tokens(self, tokens: Sequence[str]) -> "Tokenizer":
        """A tokenizer that also reads each of ``tokens`` as one token, with the ids that follow.

        Raises:
            UserError: a token that it already has.
        """
        for token in tokens:
            if not token.strip():
                raise UserError("a new token must not be empty")
            if token in self.backend.get_vocab():
                raise UserError(f"token {token!r} is already in the vocabulary: choose another")
        backend = copy.deepcopy(self.backend)
        backend.add_tokens(list(tokens))
        return dataclasses.replace(self, backend=backend)

    def fingerprint(self) -> str:
        """A hash of everything that decides which ids a caption gets."""
        state = {
            "tokenizer": json.loads(self.backend.backend_tokenizer.to_str()),
            "pad": self.backend.pad_token_id,
            "max_length": self.max_length,
        }
        # Padding and truncation are what the last call left there.
        state["tokenizer"].update(padding=None, truncation=None)
        return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()

    def save(self, directory: epath.PathLike) -> None:
        """Writes the Hub's tokenizer files: the slow ones, the fast one and their settings."""
        special = json.dumps(self.backend.special_tokens_map, indent=2, ensure_ascii=False)
        model = self.backend.backend_tokenizer.model
        with tempfile.TemporaryDirectory() as local:
            self.backend.save_pretrained(local)
            if type(model).__name__ == "BPE":
                model.save(local)
            pathlib.Path(local, "special_tokens_map.json").write_text(special + "\n", encoding="utf-8")
            _copy_files(local, directory)

    def _warn_of_cut(self, caption: str) -> None:
        encoding = self.backend.backend_tokenizer.encode(caption)
        first_lost = encoding.offsets[self.max_length - 1][0]
        warnings.warn(
            f"a caption of {len(encoding.ids)} tokens is cut to {self.max_length};"
            f" lost: {caption[first_lost:]!r}",
            stacklevel=3,
        )


def load_tokenizer(source: epath.PathLike, *, max_length: int | None = None) -> Tokenizer:
    """A tokenizer from a folder or Hub id in any layout that transformers reads.

    Args:
        source: a folder with tokenizer files, or a Hub id.
        max_length: tokens a row; ``None`` takes the ``model_max_length`` of the files.

    Raises:
        UserError: there is no tokenizer, or its files state no length and none is given.
    """
    if "://" in os.fspath(source):
        with tempfile.TemporaryDirectory() as local:
            _copy_files(source, local)
            return load_tokenizer(local, max_length=max_length)
    try:
        backend = _transformers().AutoTokenizer.from_pretrained(source)
    except MemoryError:
        raise
    except Exception as error:
        # Any: damaged files make the libraries raise what they lead to, Rust's side plain exceptions.
        first = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"no tokenizer in {str(source)!r} ({first}): give a folder or Hub id with one"
        ) from error
    # transformers writes a huge number where a length was never set.
    where = f"the tokenizer of {str(source)!r}: model_max_length"
    stated = NUMBER.read(backend.model_max_length, where)
    length = max_length or (None if stated >= 10**9 else LENGTH.read(backend.model_max_length, where))
    if length is None:
        raise UserError(f"the tokenizer of {str(source)!r} states no model_max_length: give max_length")
    return Tokenizer(backend=backend, max_length=length)


def train_bpe(
    captions: Iterable[str], directory: epath.PathLike, *, vocab_size: int, max_length: int
) -> Tokenizer:
    """Trains a tokenizer of CLIP's kind and writes it in the Hub's layout.

    The order of ids is OpenAI's: bytes, bytes that end a word, merges by rank, start, end; so the end has the
    largest id. The same captions give the same files.

    Args:
        captions: the text to find frequent pairs in.
        directory: where ``tokenizer.json``, ``vocab.json``, ``merges.txt`` and their settings go.
        vocab_size: at most so many ids; fewer where the captions have no more pairs to merge.
        max_length: tokens a row that the files state, start and end included.

    Raises:
        UserError: ``vocab_size`` below `MIN_VOCAB_SIZE`, or ``max_length`` below 3.
    """
    if vocab_size < MIN_VOCAB_SIZE:
        raise UserError(f"vocab_size = {vocab_size}: bytes and special tokens alone take {MIN_VOCAB_SIZE}")
    if max_length < 3:
        raise UserError(f"max_length = {max_length}: start, one token and end take 3")
    clip = _transformers().CLIPTokenizer
    merges = _learn_merges(captions, vocab_size - MIN_VOCAB_SIZE, clip().backend_tokenizer)
    symbols = _byte_symbols()
    tokens = [*symbols, *(symbol + END_OF_WORD for symbol in symbols)]
    tokens += dict.fromkeys(first + second for first, second in merges)
    vocab = {token: index for index, token in enumerate([*tokens, START, END])}
    tokenizer = Tokenizer(
        backend=clip(vocab=vocab, merges=merges, model_max_length=max_length), max_length=max_length
    )
    tokenizer.save(directory)
    return tokenizer


def _learn_merges(captions: Iterable[str], count: int, pipeline: Any) -> list[tuple[str, str]]:
    """The ``count`` most frequent pairs, found greedily, after the text normalisation of ``pipeline``."""
    import tokenizers

    symbols = _byte_symbols()
    learner = tokenizers.Tokenizer(tokenizers.models.BPE(end_of_word_suffix=END_OF_WORD))
    learner.normalizer, learner.pre_tokenizer = pipeline.normalizer, pipeline.pre_tokenizer
    # The learner's own vocabulary has only those word-ending bytes that it met, so no size bounds the merges.
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=count + 2 * len(symbols),
        initial_alphabet=symbols,
        end_of_word_suffix=END_OF_WORD,
        show_progress=False,
    )
    learner.train_from_iterator(captions, trainer)
    merges = json.loads(learner.to_str())["model"]["merges"]
    return [tuple(pair) for pair in merges[:count]]


def _byte_symbols() -> list[str]:
    """One printable character a byte, in the order of OpenAI's vocabulary (GPT-2's ``bytes_to_unicode``).

    Bytes that print in Latin-1 stand for themselves; the others take the code points from 256 on.
    """
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(256 - len(printable))]


def _copy_files(source: epath.PathLike, target: epath.PathLike) -> None:
    """transformers knows local folders only; a bucket is read and written through one."""
    target = epath.Path(target)
    target.mkdir(parents=True, exist_ok=True)
    for path in epath.Path(source).iterdir():
        (target / path.name).write_bytes(path.read_bytes())


def _transformers() -> types.ModuleType:
    """transformers, imported when first needed (it takes a second), without its advice to install PyTorch."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    import transformers

    return transformers
