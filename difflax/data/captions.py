"""What an image's caption is made of: columns that stand beside it, templates, one of several, shuffled tags.

A data set names its texts as it likes, and may have several of an image: a long one that a model wrote, the
few words that stood beside it on its page, tags, the name of a class. Which of them a model is trained on,
and how often, is `CaptionForm`. What is drawn is drawn by the generator that is given, so that a caption is
a function of seed and position in the stream.
"""

import dataclasses
import string
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from difflax.core.spelling import nearest
from difflax.core.types import BadExample, UserError
from difflax.data.texts import MAX_CAPTION, decode_text, whole_text

Fields = Mapping[str, Any]
"""What stands beside an image, by the names of the columns."""

Weighted = tuple[tuple[str, float], ...]
"""Texts with what each of them counts."""

CaptionText = str | Mapping[str, float] | Weighted
"""What a config says that captions are: one choice of a `CaptionForm`, or several with their shares."""

SEPARATOR, JOINT = ",", ", "
"""What stands between tags, and what they are joined by."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Captions:
    """Those of one image.

    Attributes:
        options: each once or more, with shares that add up to 1; tags are in the order of the data.
        shuffle_tags, keep_tags: see `CaptionForm`.
    """

    options: Weighted
    shuffle_tags: bool = False
    keep_tags: int = 0

    @property
    def usual(self) -> str:
        """The likeliest, the first of them."""
        said, _ = max(self.options, key=lambda option: option[1])
        return said

    @property
    def varies(self) -> bool:
        """Whether what is drawn may be another than what was."""
        return len(self.options) > 1 or self.shuffle_tags

    def draw(self, rng: np.random.Generator) -> str:
        """One of them by the shares, its tags in an order that is drawn."""
        ends = np.cumsum([share for _, share in self.options])
        place = min(int(np.searchsorted(ends, rng.random(), side="right")), len(ends) - 1)
        said, _ = self.options[place]
        if not self.shuffle_tags:
            return said
        tags = [tag for tag in map(str.strip, said.split(SEPARATOR)) if tag]
        kept, rest = tags[: self.keep_tags], tags[self.keep_tags :]
        return JOINT.join([*kept, *(rest[i] for i in rng.permutation(len(rest)))])


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionForm:
    """How captions are made.

    Attributes:
        choices: each is the name of a column, or a template with names in braces (``a photo of a {label}``),
            with its share of the times that an image is seen. The shares of those that an image lacks go to
            the others. A name with points goes down into columns of columns, ``captions.text``. Of a column
            with a list each text is as likely as the others; in a template they are joined by commas.
        shuffle_tags: whether the parts between commas come in an order that is drawn.
        keep_tags: how many parts stay first.
    """

    choices: Weighted
    shuffle_tags: bool = False
    keep_tags: int = 0

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of all columns that it reads, each once."""
        return tuple(dict.fromkeys(name for text, _ in self.choices for name in _names(text)))

    def of(self, fields: Fields, where: str) -> Captions:
        """The captions of an image.

        Args:
            where: the example, for the error.

        Raises:
            BadExample: it has none that says something, or one of more than `MAX_CAPTION` characters.
        """
        found: list[tuple[str, float]] = []
        for text, share in self.choices:
            texts = [said for said in _texts(text, fields, where) if said]
            found += [(said, share / len(texts)) for said in texts if share]
        if not found:
            raise BadExample(f"{where} {self._lacks(fields)}")
        longest = max(len(said) for said, _ in found)
        if longest > MAX_CAPTION:
            raise BadExample(f"{where} has a caption of {longest:,} characters: {MAX_CAPTION:,} are the most")
        whole = sum(share for _, share in found)
        options = tuple((said, share / whole) for said, share in found)
        return Captions(options=options, shuffle_tags=self.shuffle_tags, keep_tags=self.keep_tags)

    def _lacks(self, fields: Fields) -> str:
        if any(_value(fields, name) is not None for name in self.columns):
            return "has an empty caption: write one or remove it"
        named = " or ".join(map(repr, self.columns))
        there = ", ".join(map(str, list(fields)[:20])) or "nothing"
        return f"has no caption: {named} is not beside it, but {there[:200]}"


def caption_form(caption: CaptionText, shuffle_tags: bool = False, keep_tags: int = 0) -> CaptionForm:
    """The form of a config's ``caption``, ``shuffle_tags`` and ``keep_tags``.

    Raises:
        ValueError: a template that cannot be read, or shares that are none.
    """
    pairs = ((caption, 1.0),) if isinstance(caption, str) else tuple(dict(caption).items())
    for text, share in pairs:
        if not _names(text):
            raise ValueError(f"caption {text!r} names no column: write its name, or a template with {{name}}")
        if not 0 <= share < np.inf:
            raise ValueError(f"caption {text!r} has the share {share}, which must be finite and not negative")
    if not sum(share for _, share in pairs) > 0:
        raise ValueError("caption: no share is above 0")
    return CaptionForm(choices=pairs, shuffle_tags=shuffle_tags, keep_tags=keep_tags)


def check_columns(form: CaptionForm, known: Sequence[str], where: str) -> None:
    """Refuses a form of which no example could have a caption.

    Args:
        known: the columns of the data, or those at the top where columns have columns.
        where: the data as the user named them, for the error.

    Raises:
        UserError: none of the form's columns is among them.
    """
    names = form.columns
    if not any(name in known or name.split(".")[0] in known for name in names):
        raise UserError(
            f"config.data.caption = {names[0]!r} is no column of {where}{nearest(names[0], known)}"
        )


def _names(text: str) -> tuple[str, ...]:
    """The columns that a caption's text of the config names."""
    if not text.strip():
        return ()
    return (text,) if not _is_template(text) else tuple(name for _, name in _parts(text) if name is not None)


def _is_template(text: str) -> bool:
    return "{" in text or "}" in text


def _parts(template: str) -> Iterator[tuple[str, str | None]]:
    """Literal text and the name that follows it, ``None`` behind the last."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"caption {template!r} is no template: {error}") from error
    for literal, name, form, conversion in parts:
        if name is not None and (not name or form or conversion or set(name) & set("[]{}")):
            raise ValueError(f"caption {template!r}: in braces stands the name of a column and nothing else")
        yield literal, name


def _texts(text: str, fields: Fields, where: str) -> list[str]:
    """What one of the choices says of an image."""
    if not _is_template(text):
        return _said(_value(fields, text), where)
    made = []
    for literal, name in _parts(text):
        made.append(literal)
        if name is not None:
            said = _said(_value(fields, name), where)
            if not said:
                return []
            made.append(JOINT.join(said))
    return ["".join(made).strip()]


def _value(fields: Any, name: str) -> Any:
    """The value of a column; a list of columns gives a list of their values."""
    match fields:
        case Mapping():
            if name in fields:
                return fields[name]
            first, point, rest = name.partition(".")
            return _value(fields[first], rest) if point and first in fields else None
        case list() | tuple() | np.ndarray():
            return [_value(item, name) for item in fields]
    return None


def _said(value: Any, where: str) -> list[str]:
    """The texts of a column's value: none, one or several."""
    match value:
        case None | Mapping():
            return []
        case str():
            return [text] if (text := whole_text(value).strip()) else []
        case bytes():
            try:
                return _said(decode_text(value, "its caption"), where)
            except UserError as error:
                raise BadExample(f"{where}: {error}") from error
        case list() | tuple() | np.ndarray():
            return [text for item in value for text in _said(item, where)]
    return [str(value)]
