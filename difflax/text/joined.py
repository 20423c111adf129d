"""Several text encoders read as one: SDXL's two, Stable Diffusion 3's three."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from difflax.core.several import several
from difflax.core.types import Conditioning, UserError
from difflax.text.prompts import PromptEncoder, SingleEncoder

Prompt = str | tuple[str, ...]
"""A text, or one for each text encoder."""


@flax.struct.dataclass
class JoinedEncoder:
    """A `PromptEncoder` of several that read the same prompts. It nests:

        clips = JoinedEncoder((clip_l, big_g), along="features", pooled=(0, 1))
        sd3 = JoinedEncoder((clips, t5), along="tokens", pooled=(0,))

    A prompt is one text for all, or a tuple with one for each of its ``towers`` (``prompt_2`` and so on, see
    `difflax.text.per_tower`).

    Attributes:
        encoders: at least one.
        along: ``"features"`` puts their states of a token side by side, for which all must give as many
            tokens; ``"tokens"`` puts their tokens one after the other, the narrower filled up with zeros.
        pooled: the encoders (by place) whose pooled vectors are joined, in this order; no other's is read.

    Raises:
        UserError: no encoder, or a place that there is not.
    """

    encoders: tuple[PromptEncoder, ...]
    along: Literal["features", "tokens"] = flax.struct.field(pytree_node=False)
    pooled: tuple[int, ...] = flax.struct.field(pytree_node=False)

    def __post_init__(self):
        count = len(self.encoders)
        if not count or not all(0 <= place < count for place in self.pooled):
            raise UserError(
                f"a joined text encoder of {count} parts cannot take its pooled vector from {self.pooled}"
            )

    @property
    def towers(self) -> tuple[SingleEncoder, ...]:
        """See `PromptEncoder`."""
        return tuple(tower for part in self.encoders for tower in part.towers)

    def with_towers(self, changed: Sequence[PromptEncoder]) -> "JoinedEncoder":
        """See `PromptEncoder`."""
        rest = iter(changed)
        parts = (part.with_towers([next(rest) for _ in part.towers]) for part in self.encoders)
        return self.replace(encoders=tuple(parts))

    def picked(self, wholes: Sequence[Conditioning]) -> Conditioning:
        """See `PromptEncoder`."""
        rest, parts = iter(wholes), []
        for place, encoder in enumerate(self.encoders):
            parts.append(encoder.picked([self._part(place, next(rest)) for _ in encoder.towers]))
        return self._join(parts)

    def _part(self, place: int, whole: Conditioning) -> Conditioning:
        """What the encoder at ``place`` says in a conditioning of all; unread pooled vectors are left out."""
        ahead, own = self.encoders[:place], self.encoders[place]
        context, pooled = JOINS[self.along].part(whole.context, ahead, own), None
        if place in self.pooled and whole.pooled is not None:
            before = self.pooled[: self.pooled.index(place)]
            start = sum(self.encoders[other].pooled_width for other in before)
            pooled = whole.pooled[:, start : start + own.pooled_width]
        return Conditioning(context=context, pooled=pooled)

    @property
    def batch_size(self) -> int:
        return max(encoder.batch_size for encoder in self.encoders)

    @property
    def width(self) -> int:
        """Of ``context``."""
        return JOINS[self.along].width([encoder.width for encoder in self.encoders])

    @property
    def pooled_width(self) -> int:
        """Of ``pooled``."""
        return sum(self.encoders[place].pooled_width for place in self.pooled)

    def encode(self, captions: Sequence[Prompt]) -> Conditioning:
        """The conditioning of captions; see `PromptEncoder`."""
        return self._join([encoder.encode(own) for encoder, own in self._with_own(captions)])

    def tokenize(self, captions: Sequence[Prompt]) -> tuple[PyTree, ...]:
        """What each encoder reads of captions."""
        return tuple(encoder.tokenize(own) for encoder, own in self._with_own(captions))

    def condition_ids(self, tokens: tuple[PyTree, ...]) -> Conditioning:
        """The conditioning of one batch of `tokenize`."""
        pairs = zip(self.encoders, tokens, strict=True)
        return self._join([encoder.condition_ids(own) for encoder, own in pairs])

    def count_pieces(self, prompts: Sequence[Prompt], *, weighted: bool) -> int:
        """The most that one of the encoders needs."""
        return max(e.count_pieces(own, weighted=weighted) for e, own in self._with_own(prompts))

    def encode_pieces(self, prompts: Sequence[Prompt], pieces: int, *, weighted: bool) -> Conditioning:
        """Prompts in so many pieces each; see `PromptEncoder`."""
        pairs = self._with_own(prompts)
        return self._join([e.encode_pieces(own, pieces, weighted=weighted) for e, own in pairs])

    def fingerprint(self) -> str:
        """See `PromptEncoder`."""
        parts = [self.along, str(self.pooled), *(encoder.fingerprint() for encoder in self.encoders)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def _with_own(self, prompts: Sequence[Prompt]) -> list[tuple[PromptEncoder, list[Prompt]]]:
        """Each encoder with what it reads."""
        pairs, start = [], 0
        texts = [several(prompt, len(self.towers)) for prompt in prompts]
        for encoder in self.encoders:
            stop = start + len(encoder.towers)
            pairs.append((encoder, [one[start] if stop - start == 1 else one[start:stop] for one in texts]))
            start = stop
        return pairs

    def _join(self, made: Sequence[Conditioning]) -> Conditioning:
        context = JOINS[self.along].states([one.context for one in made])
        vectors = [made[place].pooled for place in self.pooled]
        # Of a model whose network reads no pooled vector.
        vectors = [] if any(vector is None for vector in vectors) else vectors
        return Conditioning(context=context, pooled=jnp.concatenate(vectors, axis=-1) if vectors else None)


def _side_by_side(contexts: Sequence[Float[Array, "b _ _"]]) -> Float[Array, "b n w"]:
    lengths = [context.shape[1] for context in contexts]
    if len(set(lengths)) > 1:
        raise UserError(
            f"text encoders of {' and '.join(map(str, lengths))} tokens cannot stand side by side:"
            " load their tokenizers with one max_length"
        )
    return jnp.concatenate(contexts, axis=-1)


def _one_after_other(contexts: Sequence[Float[Array, "b _ _"]]) -> Float[Array, "b n w"]:
    width = max(context.shape[-1] for context in contexts)
    filled = [jnp.pad(context, ((0, 0), (0, 0), (0, width - context.shape[-1]))) for context in contexts]
    return jnp.concatenate(filled, axis=1)


def _beside(context: Float[Array, "b n w"], ahead: Sequence[PromptEncoder], own: PromptEncoder) -> Array:
    start = sum(encoder.width for encoder in ahead)
    return context[..., start : start + own.width]


def _after(context: Float[Array, "b n w"], ahead: Sequence[PromptEncoder], own: PromptEncoder) -> Array:
    start = sum(map(_tokens, ahead))
    return context[:, start : start + _tokens(own), : own.width]


def _tokens(encoder: PromptEncoder) -> int:
    """How many tokens an encoder gives a prompt of one piece."""
    states = jax.eval_shape(lambda tokens: encoder.condition_ids(tokens).context, encoder.tokenize([""]))
    return states.shape[1]


class _Join(NamedTuple):
    """How states of several encoders become one, how wide it is for encoders of given widths, and the part of
    it that is an encoder's behind others.
    """

    states: Callable[[Sequence[Array]], Array]
    width: Callable[[Sequence[int]], int]
    part: Callable[[Array, Sequence[PromptEncoder], PromptEncoder], Array]


JOINS = {"features": _Join(_side_by_side, sum, _beside), "tokens": _Join(_one_after_other, max, _after)}
"""By `JoinedEncoder.along`."""
