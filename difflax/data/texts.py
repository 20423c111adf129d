"""From bytes to text: the one reader of captions, listings and files of prompts.

The encoding is told by a byte order mark, else it is UTF-8, else Windows-1252, which is what older editors of
the West write; other scripts in their old encodings are refused and not guessed. Half of a pair of
surrogates, which no encoding of text has, becomes U+FFFD, so that whatever is read can be written.
"""

import codecs
import io
import os
import re
from collections.abc import Iterator

from etils import epath

from difflax.core.files import is_file
from difflax.core.types import UserError

MAX_TEXT_BYTES = 2**28  # of a listing or a file of prompts
MAX_CAPTION = 2**16  # characters of one caption

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    # Before UTF-16, whose mark begins theirs.
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def decode_text(data: bytes, where: str) -> str:
    """The text of bytes in UTF-8, UTF-16 or UTF-32 with their marks, or Windows-1252.

    Args:
        where: the file or record, for the error.

    Raises:
        UserError: they are none of these.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return whole_text(_decoded(data[len(mark) :], encoding, where))
    if b"\0" in data:
        raise UserError(f"{where} is no text: it holds zero bytes; save it as UTF-8")
    try:
        return whole_text(data.decode("utf-8", "surrogatepass"))
    except UnicodeDecodeError:
        if not _may_be_western(data):
            raise UserError(f"{where} is in an encoding that is not told: save it as UTF-8") from None
        return _decoded(data, "cp1252", where)


def read_text(path: epath.PathLike, where: str | None = None, *, limit: int = MAX_TEXT_BYTES) -> str:
    """The text of a file.

    Args:
        where: the file as the user named it, for the error; its path by default.
        limit: bytes that it may have.

    Raises:
        UserError: it cannot be read, is too long, or is no text; see `decode_text`.
    """
    path, where = epath.Path(path), where or str(path)
    try:
        if path.is_dir():
            raise UserError(f"{where}: that is a folder and no file")
        if not is_file(path):
            raise UserError(f"{where}: no such file")
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        raise UserError(f"{where} cannot be read: {error}") from error
    if len(data) > limit:
        raise UserError(f"{where} has more than {limit:,} bytes: shorten it")
    return decode_text(data, where)


def lines_of(text: str) -> Iterator[str]:
    """The lines between line feeds and carriage returns; U+2028 and other separators of paragraphs, which
    `str.splitlines` takes too, belong to the text.
    """
    return (line.rstrip("\n") for line in io.StringIO(text, newline=None))


def read_lines(path: epath.PathLike, where: str | None = None) -> list[str]:
    """The lines of a file that say something; arguments and errors as for `read_text`."""
    return [line.strip() for line in lines_of(read_text(path, where)) if line.strip()]


def whole_text(text: str) -> str:
    """The text with its surrogates joined, and those that lack their other half replaced by U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def argument_text(text: str) -> str:
    """The text of a command line's argument, of which Python keeps bytes that are not UTF-8 as surrogates."""
    return decode_text(os.fsencode(text), f"the argument {text!r}") if _is_broken(text) else text


def _is_broken(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _decoded(data: bytes, encoding: str, where: str) -> str:
    # Text of UTF-16 may hold half pairs, which `whole_text` mends.
    errors = "surrogatepass" if encoding.startswith("utf") else "strict"
    try:
        return data.decode(encoding, errors)
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is no text in {encoding} ({error.reason}): save it as UTF-8") from None


def _may_be_western(data: bytes) -> bool:
    """Whether bytes beyond ASCII stand as alone as the accents and quotation marks of languages in Latin
    script; in encodings of Cyrillic, Greek, Chinese or Japanese they stand together.
    """
    seen = [byte for byte in data if byte > 0x20]
    return 2 * sum(byte >= 0x80 for byte in seen) <= len(seen) and not re.search(rb"[\x80-\xff]{4}", data)
