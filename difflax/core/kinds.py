"""What a field of a config takes: its annotation, read once, as kinds of values that say what they take.

Annotations are checked here and nowhere else: a class that declares a ``Literal``, a float or a `Range` gets
one of its values, a finite number or one inside from every config. What is left to the class is what its
fields ask of each other.
"""

import abc
import collections.abc
import dataclasses
import math
import typing
from collections.abc import Mapping
from typing import Any, ClassVar

from difflax.core.bounds import Range
from difflax.core.descriptions import choices_of
from difflax.core.spelling import nearest, shown
from difflax.core.types import UserError


class ValueKind(abc.ABC):
    """One of the types that an annotation joins.

    Attributes:
        words: what it is called in errors.
        known: all its values, where it lists them.
    """

    words: str
    known: tuple[Any, ...] = ()

    @abc.abstractmethod
    def takes(self, value: Any) -> bool:
        """Whether ``value``, as `difflax.config.values.values_of` gives it, is of this kind."""

    def read(self, value: Any, where: str) -> Any:
        """What a value that it takes becomes.

        Raises:
            UserError: something in it is wrong.
        """
        return value


class Nothing(ValueKind):
    """``None``."""

    words = "None"
    known = (None,)

    def takes(self, value: Any) -> bool:
        return value is None


@dataclasses.dataclass(frozen=True)
class Listed(ValueKind):
    """The values of a ``Literal``."""

    known: tuple[Any, ...]

    @property
    def words(self) -> str:
        return " or ".join(map(repr, self.known))

    def takes(self, value: Any) -> bool:
        return value in self.known


@dataclasses.dataclass(frozen=True)
class OfType(ValueKind):
    """The values of a type of Python's; a truth value is no number, though Python has it so."""

    type: type

    @property
    def words(self) -> str:
        return self.type.__name__

    def takes(self, value: Any) -> bool:
        return isinstance(value, self.type) and (self.type is bool or not isinstance(value, bool))


@dataclasses.dataclass(frozen=True)
class Number(ValueKind):
    """Numbers, whole ones too; they become floats.

    Attributes:
        endless: whether they may be infinite.
    """

    endless: bool
    words: ClassVar[str] = "float"

    UNWRITABLE: ClassVar[dict[str, float]] = {
        sign + name: float(sign + name) for sign in ("", "+", "-") for name in ("inf", "nan")
    }
    """What JSON and the command line cannot say in numbers."""

    def takes(self, value: Any) -> bool:
        number = self.UNWRITABLE.get(str(value), value)
        return OfType(float).takes(number) or OfType(int).takes(number)

    def read(self, value: Any, where: str) -> float:
        try:
            number = float(value)
        except OverflowError:
            raise UserError(f"{where} = {shown(value)} must be a finite number") from None
        if math.isnan(number) or (math.isinf(number) and not self.endless):
            raise UserError(f"{where} = {number!r} must be a finite number")
        return number


@dataclasses.dataclass(frozen=True)
class Bounded(ValueKind):
    """Numbers of a kind within a range."""

    of: ValueKind
    bounds: Range

    @property
    def words(self) -> str:
        return self.of.words

    def takes(self, value: Any) -> bool:
        return self.of.takes(value)

    def read(self, value: Any, where: str) -> Any:
        number = self.of.read(value, where)
        self.bounds.check(number, where)
        return number


@dataclasses.dataclass(frozen=True)
class Several(ValueKind):
    """Tuples.

    Attributes:
        each: what the items take, one after the other; of ``any_number`` all take the first.
    """

    each: tuple["Takes", ...]
    any_number: bool

    @property
    def words(self) -> str:
        return f"a tuple of {', '.join(each.words for each in self.each)}"

    def takes(self, value: Any) -> bool:
        return isinstance(value, tuple) and (self.any_number or len(value) == len(self.each))

    def read(self, value: Any, where: str) -> tuple[Any, ...]:
        each = self.each[:1] * len(value) if self.any_number else self.each
        pairs = zip(each, value, strict=True)
        return tuple(takes.read(item, f"{where}[{i}]") for i, (takes, item) in enumerate(pairs))


@dataclasses.dataclass(frozen=True)
class Pairs(ValueKind):
    """Mappings, which become tuples of pairs: a config's own names hold no points, and these are any texts.

    Attributes:
        of: what the names and the values take.
    """

    of: tuple["Takes", "Takes"]

    @property
    def words(self) -> str:
        return f"a mapping of {self.of[0].words} to {self.of[1].words}"

    def takes(self, value: Any) -> bool:
        return isinstance(value, Mapping) and bool(value)

    def read(self, value: Any, where: str) -> tuple[tuple[Any, Any], ...]:
        names, items = self.of
        read = ((names.read(name, where), item) for name, item in value.items())
        return tuple((name, items.read(item, f"{where}[{name!r}]")) for name, item in read)


@dataclasses.dataclass(frozen=True)
class Anything(ValueKind):
    """Every value: the annotation (a protocol, ``Any``) says nothing about those of a config."""

    words: str

    def takes(self, value: Any) -> bool:
        return True


@dataclasses.dataclass(frozen=True)
class Takes:
    """All that a field takes.

    Attributes:
        kinds: asked in their order.
    """

    kinds: tuple[ValueKind, ...]

    @property
    def words(self) -> str:
        """The annotation in words, for errors."""
        return " or ".join(kind.words for kind in self.kinds)

    def kind(self, value: Any) -> ValueKind | None:
        """The first that takes ``value``."""
        return next((kind for kind in self.kinds if kind.takes(value)), None)

    def read(self, value: Any, where: str) -> Any:
        """``value`` as its annotation has it: whole numbers as floats where it says so.

        Raises:
            UserError: it is of another type, or not a finite number.
        """
        kind = self.kind(value)
        if kind is not None:
            return kind.read(value, where)
        if all(kind.known for kind in self.kinds):
            known = [item for kind in self.kinds for item in kind.known]
            raise UserError(f"{where} = {shown(value)} is unknown{nearest(value, known)}")
        raise UserError(f"{where} = {shown(value)} must be {self.words}")


def takes_of(hint: Any, *, endless: bool = False) -> Takes:
    """What a field of that annotation takes; arrays stand in no config.

    Args:
        endless: whether its numbers may be infinite.
    """
    return Takes(tuple(_kind(option, endless) for option in choices_of(hint) if not _is_array(option)))


_OF_TYPES = {
    type(None): Nothing(),
    bool: OfType(bool),
    # Of what a computer's whole numbers hold; a range that is declared is narrower.
    int: Bounded(OfType(int), Range(-(2**63), 2**63 - 1)),
    str: OfType(str),
}


def _kind(option: Any, endless: bool) -> ValueKind:
    origin, parts = typing.get_origin(option), typing.get_args(option)
    if option is float:
        return Number(endless)
    if origin is typing.Annotated:
        # Of float | int the first takes both.
        kind = _kind(choices_of(parts[0])[0], endless)
        for bounds in option.__metadata__:
            kind = Bounded(kind, bounds)
        return kind
    if origin is typing.Literal:
        return Listed(parts)
    if origin in (tuple, collections.abc.Sequence):
        each = tuple(takes_of(part, endless=endless) for part in parts if part is not ...)
        return Several(each, any_number=origin is not tuple or parts[-1] is ...)
    if origin is collections.abc.Mapping:
        return Pairs((takes_of(parts[0]), takes_of(parts[1], endless=endless)))
    return _OF_TYPES.get(option, Anything(getattr(option, "__name__", str(option))))


def _is_array(option: Any) -> bool:
    """Whether an annotation means arrays."""
    return hasattr(option, "dtypes") and hasattr(option, "dims")


def read_fields(hints: Mapping[str, Any], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The values of a ``config.json`` as annotations have them: its lists as tuples, whole numbers as floats
    where floats are meant.

    Args:
        hints: the annotation of every field.
        where: what holds them, for errors.

    Raises:
        UserError: one of another type or out of its range.
    """
    return {
        name: takes_of(hints[name]).read(_tuples(value), f"{where}.{name}") for name, value in values.items()
    }


def read_own_fields(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values that are fields of a dataclass, see `read_fields`."""
    hints = typing.get_type_hints(cls, include_extras=True)
    names = [field.name for field in dataclasses.fields(cls) if field.name in values]
    return read_fields(hints, {name: values[name] for name in names}, cls.__name__)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if type(value) is list else value
