"""What a config may hold: sections made of dataclasses, read with their fields, defaults and descriptions.

A section holds the fields of one class, or of one of several, chosen by its ``name``. A field is a value or a
section itself: where its annotation is a dataclass, or where `part` says which implementations it has. So the
whole schema is what the classes declare, and a new field of a class is a new key of every config that has it.
"""

import dataclasses
import functools
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import DTypeLike

from difflax.config.values import REQUIRED, values_of
from difflax.core.descriptions import choices_of
from difflax.core.kinds import Takes, takes_of
from difflax.core.spelling import nearest
from difflax.core.types import UserError

SECTION = "section"
"""Where `part` leaves a section in a dataclass field's metadata."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Field:
    """A key of a section.

    Attributes:
        hint: its annotation.
        default: as a config holds it, ``REQUIRED`` where there is none.
        text: one line about it, from the class's docstring.
        section: what may stand below it, if anything.
    """

    name: str
    hint: Any
    default: Any
    text: str
    section: "Section | None" = None

    @functools.cached_property
    def takes(self) -> Takes:
        """Its values, where it is no section; they may be infinite where its own default is."""
        return takes_of(self.hint, endless=self.default in (math.inf, -math.inf))

    def has_default(self, value: Any) -> bool:
        """Whether a value is its default; ``True`` is not 1 where it takes one of them alone."""
        return value == self.default and self.takes.kind(value) is not None

    def below(self, value: Any) -> "Section | None":
        """The section that a value gives fields of, ``None`` where it is a value like any other."""
        section = self.section
        return section if section is not None and not section.many and section.takes(value) else None


def _make(cls: Callable[..., Any], own: dict[str, Any], beside: dict[str, Any]) -> Any:
    return cls(**own)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a config.

    Attributes:
        of: the class whose fields it has, or several by the names that choose them.
        beside: a dataclass whose fields stand beside those of ``of``.
        chosen: the name that is chosen unless a config says otherwise; ``None``: it must say.
        optional: whether it may be ``None``.
        many: whether it is a tuple of sections and not one.
        value: whether a plain value may stand in its place, which is then the default.
        below: sections that may stand in fields of ``of``, by their names, beside those that classes declare.
        given: names of fields that a config does not set, as they come from elsewhere; dotted below sections.
        entry: what one of its fields is called in errors.
        make: the object of ``(class, its fields, fields beside)``.
    """

    of: Callable[..., Any] | Mapping[str, Callable[..., Any]]
    beside: type | None = None
    chosen: str | None = None
    optional: bool = False
    many: bool = False
    value: bool = False
    below: Mapping[str, "Section"] = dataclasses.field(default_factory=dict)
    given: tuple[str, ...] = ()
    entry: str = "field"
    make: Callable[[Callable[..., Any], dict[str, Any], dict[str, Any]], Any] = _make

    @functools.cached_property
    def classes(self) -> Mapping[str | None, Callable[..., Any]]:
        """Its classes by name; where nothing is chosen, the one class under ``None``."""
        return self.of if isinstance(self.of, Mapping) else {None: self.of}

    @property
    def names(self) -> tuple[str, ...]:
        """What ``name`` may be; empty where nothing is chosen."""
        return tuple(name for name in self.classes if name is not None)

    def takes(self, value: Any) -> bool:
        """Whether a value has the form of its own: a mapping of fields, or a tuple where it is many."""
        return isinstance(value, tuple if self.many else Mapping)

    def holds_value(self, value: Any) -> bool:
        """Whether a value stands in the section's place."""
        return self.value and not self.takes(value)

    def split(self, values: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The name that values choose, ``None`` where nothing is chosen, and the values of its fields."""
        fields = dict(values)
        return (fields.pop("name", self.chosen) if self.names else None), fields

    def joined(self, name: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
        """What `split` splits."""
        return {"name": name, **fields} if self.names else dict(fields)

    def cls(self, name: Any, where: str) -> Callable[..., Any]:
        """The class of that name.

        Raises:
            UserError: there is none, or none is chosen.
        """
        if name in tuple(self.classes):
            return self.classes[name]
        if name is None:
            raise UserError(f"{where}.name is missing: choose one of {', '.join(self.names)}")
        raise UserError(f"{where}.name = {name!r} is unknown{nearest(name, self.names)}")

    def own(self, name: Any, where: str) -> dict[str, Field]:
        """The fields of the class of that name."""
        fields = fields_of(self.cls(name, where), self.given)
        held = {key: section for key, section in self.below.items() if key in fields}
        return fields | {key: dataclasses.replace(fields[key], section=value) for key, value in held.items()}

    def around(self) -> dict[str, Field]:
        """The fields beside them."""
        return {} if self.beside is None else fields_of(self.beside, self.given)

    def fields(self, name: Any, where: str) -> dict[str, Field]:
        """All fields of the section under that name, by their names."""
        return {**self.own(name, where), **self.around()}


def part(
    of: Callable[..., Any] | Mapping[str, Callable[..., Any]],
    chosen: str | None = None,
    *,
    optional: bool = False,
    many: bool = False,
) -> Any:
    """A field of a dataclass that is a section of a config; arguments are those of `Section`.

    Its default in Python is the class, or the chosen one, with its defaults.
    """
    section = Section(of=of, chosen=chosen, optional=optional, many=many)
    if many:
        return dataclasses.field(default=(), metadata={SECTION: section})
    if optional:
        return dataclasses.field(default=None, metadata={SECTION: section})
    if chosen not in section.classes:
        return held(section)
    return dataclasses.field(default_factory=section.classes[chosen], metadata={SECTION: section})


def held(section: Section) -> Any:
    """A field of a dataclass that is a section of a config, and has no default in Python."""
    return dataclasses.field(metadata={SECTION: section})


@functools.cache
def fields_of(cls: Callable[..., Any], given: tuple[str, ...] = ()) -> dict[str, Field]:
    """The fields of a dataclass, or the keyword arguments of another class, by name.

    Args:
        given: names that are left out; dotted names are left out of the sections below.
    """
    texts = descriptions(cls)
    sections: dict[str, Section] = {}
    if dataclasses.is_dataclass(cls):
        hints = typing.get_type_hints(cls, include_extras=True)
        defaults = {field.name: _default(field) for field in dataclasses.fields(cls) if field.init}
        sections = {f.name: f.metadata[SECTION] for f in dataclasses.fields(cls) if SECTION in f.metadata}
    else:
        # The metaclass of NNX modules hides their signature.
        init = cls.__init__ if inspect.isclass(cls) else cls
        known = [p for p in inspect.signature(init).parameters.values() if p.kind == p.KEYWORD_ONLY]
        hints = {p.name: p.annotation for p in known}
        defaults = {p.name: REQUIRED if p.default is p.empty else p.default for p in known}
    made = {}
    for name, default in defaults.items():
        if name in given:
            continue
        hint = hints.get(name, Any)
        if hint == DTypeLike:
            hint, default = DTYPE, jnp.dtype(default).name
        elif hint is Any:
            hint = _UNANNOTATED.get(type(default), Any)
        section = sections.get(name) or _section_of(hint)
        if section is not None:
            below = tuple(g.partition(".")[2] for g in given if g.startswith(f"{name}."))
            section = dataclasses.replace(section, given=section.given + below)
        text = texts.get(name, "")
        made[name] = Field(name=name, hint=hint, default=values_of(default), text=text, section=section)
    return made


DTYPE = typing.Literal["float32", "bfloat16", "float16"]
"""How a config names a type of numbers."""

_UNANNOTATED = {float: float | tuple[float, ...], tuple: tuple[float, ...]}
"""What a field without an annotation takes, by the type of its default: numbers, one or one a step."""


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _section_of(hint: Any) -> Section | None:
    """The section that an annotation declares: a dataclass of settings, which may be optional."""
    options = choices_of(hint)
    found = [option for option in options if dataclasses.is_dataclass(option)]
    if len(found) != 1:
        return None
    return Section(of=found[0], optional=type(None) in options)


@functools.cache
def descriptions(cls: Callable[..., Any]) -> Mapping[str, str]:
    """What the docstrings of a class and its bases say of each field, under "Attributes:" or "Args:"."""
    found: dict[str, str] = {}
    for base in reversed(inspect.getmro(cls) if inspect.isclass(cls) else (cls,)):
        found |= _entries(inspect.cleandoc(base.__dict__.get("__doc__") or ""))
    return types.MappingProxyType(found)


_ENTRY = re.compile(r"(\w+(?:, \w+)*): (.*)")


def _entries(docstring: str) -> dict[str, str]:
    """Every name of a docstring's list of fields, with its text on one line."""
    head = re.search(r"^(Attributes|Args):$", docstring, re.MULTILINE)
    if head is None:
        return {}
    rows: list[list[str]] = []
    lines = docstring[head.end() :].splitlines()[1:]
    indent = None
    for line in lines:
        depth = len(line) - len(line.lstrip())
        indent = depth if indent is None and line.strip() else indent
        if line.strip() and depth < (indent or 0):
            break
        if depth == indent and _ENTRY.match(line.strip()):
            rows.append([line.strip()])
        elif rows and line.strip():
            rows[-1].append(line.strip())
    entries = {}
    for row in rows:
        names, text = _ENTRY.match(" ".join(row)).groups()
        entries |= dict.fromkeys(names.split(", "), text)
    return entries
