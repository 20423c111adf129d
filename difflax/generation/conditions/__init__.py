"""The kinds of condition that networks read, one file each; see `Condition`."""

from collections.abc import Sequence

from difflax.core.types import UserError
from difflax.generation.conditions.base import Condition, Encoders, Told
from difflax.generation.conditions.mask import Mask
from difflax.generation.conditions.picture import Picture
from difflax.generation.conditions.size import Size, SizeAndScore
from difflax.generation.conditions.text import Text

CONDITIONS: dict[str, Condition] = {
    kind.name: kind for kind in (Text(), Size(), SizeAndScore(), Mask(), Picture())
}
"""By the names that families give them."""


def named(names: Sequence[str]) -> tuple[Condition, ...]:
    """The kinds of these names, in their order.

    Raises:
        UserError: there is no such kind.
    """
    for name in names:
        if name not in CONDITIONS:
            raise UserError(f"a condition {name!r} is unknown; valid: {', '.join(CONDITIONS)}")
    return tuple(CONDITIONS[name] for name in names)


__all__ = [
    "CONDITIONS",
    "Condition",
    "Encoders",
    "Mask",
    "Picture",
    "Size",
    "SizeAndScore",
    "Text",
    "Told",
    "named",
]
