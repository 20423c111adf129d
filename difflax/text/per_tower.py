"""What a call says of single text encoders: other prompts for some of them, and states of earlier layers."""

from collections.abc import Sequence

from difflax.core.types import UserError
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
    count = len(encoder.towers)
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
    most = min((t.skippable for t in encoder.towers if t.skippable is not None), default=0)
    if type(clip_skip) is not int or not 0 <= clip_skip <= most:
        raise UserError(f"clip_skip = {clip_skip!r}: give a whole number from 0 to {most}")
    return encoder.with_towers([tower.skipping(clip_skip) for tower in encoder.towers])
