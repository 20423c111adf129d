"""Values of a sweep as text: read from a command line, and said in words.

    1:4:0.1                         numbers from 1 to 4, both included, 0.1 apart
    none;(0.28,2.9);(1,4,step)      several, with semicolons between them
    ddim;{"name": "heun"}           each a JSON value, a literal of Python, or a bare word

A value is what JSON has: ``None``, a bool, a number, a text, a list or a mapping.
"""

import ast
import functools
import json
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from difflax.core.spelling import shown
from difflax.core.types import UserError

MAX_VALUES = 100_000
"""The most that a range may hold."""

_OPEN, _CLOSE, _QUOTES, _ESCAPE, _BETWEEN = "([{", ")]}", "\"'", "\\", ";"

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"\s*({_NUMBER})\s*:\s*({_NUMBER})\s*(?::\s*({_NUMBER})\s*)?")
_BARE = re.compile(r"(?<![\w.])[A-Za-z_]\w*")
"""A word in brackets that stands without quotes, as in ``(1, 4, step)``."""

_WORDS = {"none": None, "null": None, "true": True, "false": False}


def read_values(text: str, where: str) -> list[Any]:
    """The values that a text lists.

    Args:
        where: what is given them, for errors.

    Raises:
        UserError: nothing is listed, a bracket or quote is left open, or a range that holds nothing.
    """
    parts = _split(text, where)
    if not all(part.strip() for part in parts):
        said = "a value is empty" if text.strip() else "no value is given"
        raise UserError(f'{where}={shown(text)}: {said} (an empty text is "")')
    return [value for part in parts for value in _read(part.strip(), where)]


def _split(text: str, where: str) -> list[str]:
    """At the semicolons that stand in no brackets and no quotes."""
    parts, depth, quote, start = [], 0, "", 0
    for index, letter in enumerate(text):
        if quote:
            quote = quote if letter != quote or text[index - 1] in _ESCAPE else ""
        elif letter in _QUOTES and (depth or not text[start:index].strip()):
            # Elsewhere it is an apostrophe.
            quote = letter
        elif letter in _OPEN:
            depth += 1
        elif letter in _CLOSE:
            depth -= 1
        elif letter in _BETWEEN and not depth:
            parts.append(text[start:index])
            start = index + 1
    if depth or quote:
        raise UserError(f"{where}={shown(text)}: a bracket or a quote is not closed")
    return [*parts, text[start:]]


def _read(part: str, where: str) -> list[Any]:
    found = _RANGE.fullmatch(part)
    if found:
        return _range(*found.groups(), where=f"{where}={shown(part)}")
    if part.lower() in _WORDS:
        return [_WORDS[part.lower()]]
    try:
        return [json.loads(part, parse_constant=_no_number)]
    except ValueError:
        pass
    for text in (part, _BARE.sub(_quoted, part)):
        try:
            return [plain(ast.literal_eval(text))]
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            if part[0] not in _OPEN or set(part) & set(_QUOTES):
                break
    return [part]


def _quoted(found: re.Match) -> str:
    word = found.group()
    return repr(_WORDS.get(word.lower(), word))


def _no_number(name: str) -> None:
    raise ValueError(name)


def _range(first: str, last: str, step: str | None, *, where: str) -> list[Any]:
    """Decimal arithmetic, so that 1:4:0.1 holds 1.1 and not 1.1000000000000001."""
    try:
        start, stop, by = Decimal(first), Decimal(last), Decimal(step or "1")
        steps = (stop - start) / by
    except ArithmeticError:
        raise UserError(f"{where}: the range never gets there; FIRST:LAST:STEP, as in 1:4:0.1") from None
    if steps < 0:
        raise UserError(f"{where}: the range never gets there; FIRST:LAST:STEP, as in 1:4:0.1")
    if steps >= MAX_VALUES:
        raise UserError(f"{where}: more than {MAX_VALUES:,} values")
    made = [start + index * by for index in range(int(steps) + 1)]
    whole = all(re.fullmatch(r"[-+]?\d+", part) for part in (first, last, step or "1"))
    return [int(value) if whole else float(value) for value in made]


@functools.singledispatch
def plain(value: Any) -> Any:
    """A value with JSON's own types: tuples become lists."""
    return value


@plain.register
def _(value: Mapping) -> dict[str, Any]:
    return {str(key): plain(item) for key, item in value.items()}


@plain.register(list)
@plain.register(tuple)
def _(value: Any) -> list[Any]:
    return [plain(item) for item in value]


def canonical(value: Any) -> str:
    """One text for each value, whatever the order of its keys."""
    return json.dumps(plain(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def is_number(value: Any) -> bool:
    """Whether it is a number (a bool is none)."""
    return type(value) in (int, float)


@functools.singledispatch
def words(value: Any) -> str:
    """A value as it stands in legends and tables."""
    return f"{value:g}" if is_number(value) else str(value).lower()


@words.register
def _(value: str) -> str:
    return value or "(empty)"


@words.register(list)
@words.register(tuple)
def _(value: Any) -> str:
    return f"({', '.join(map(words, value))})"


@words.register
def _(value: Mapping) -> str:
    inside = ", ".join(f"{key} {words(item)}" for key, item in value.items() if key not in ("name",))
    return " ".join(part for part in (str(value.get("name", "")), f"({inside})" if inside else "") if part)
