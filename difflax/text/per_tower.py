"""What a call says of single text encoders: other prompts for some of them, and states of earlier layers."""

from collections.abc import Sequence

from difflax.core.types import UserError
from difflax.text.encoders import TextEncoder
from difflax.text.joined import towers, with_towers
from difflax.text.prompts import PromptEncoder


def prompts_of_towers(
    encoder: PromptEncoder, prompts: Sequence[str], *others: Sequence[str] | None
) -> list[str | tuple[str, ...]]:
    """Prompts of which every text encoder reads its own, as a `JoinedEncoder` takes them.

    Args:
        prompts: of the first, and of those that have none.
        others: of the second, the third, and so on, as many prompts each; ``None``: they read ``prompts``.

    Raises:
        UserError: the model has fewer text encoders.
    """
    count = len(towers(encoder))
    given = [place for place, own in enumerate(others, start=2) if own is not None]
    if not given:
        return list(prompts)
    if given[-1] > count:
        raise UserError(
            f"prompt_{given[-1]}: this model reads prompts with {count} text encoder{'s' * (count > 1)};"
            " leave it out"
        )
    columns = [prompts, *(prompts if own is None else own for own in others[: count - 1])]
    columns += [prompts] * (count - len(columns))
    return list(zip(*columns, strict=True))


def with_clip_skip(encoder: PromptEncoder, clip_skip: int | None) -> PromptEncoder:
    """The text encoders with the CLIPs' states of so many layers earlier, as diffusers counts.

    A1111's "clip skip" of Stable Diffusion 1.x is one more. Pooled vectors and a T5 stay as they are.

    Args:
        clip_skip: layers before those that the model was trained with; ``None`` and 0: those.

    Raises:
        UserError: a number of layers that an encoder does not have.
    """
    if clip_skip is None:
        return encoder
    parts = towers(encoder)
    # Hidden state 0 is the embeddings.
    most = min(
        (t.layer % (t.config.num_hidden_layers + 1) for t in parts if isinstance(t, TextEncoder)), default=0
    )
    if type(clip_skip) is not int or not 0 <= clip_skip <= most:
        raise UserError(f"clip_skip = {clip_skip!r}: give a whole number from 0 to {most}")
    skipped = [
        tower.replace(layer=tower.layer - clip_skip) if isinstance(tower, TextEncoder) else tower
        for tower in parts
    ]
    return with_towers(encoder, skipped)
