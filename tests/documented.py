"""What the documentation says: its code blocks, its commands, and the names in its prose."""

import dataclasses
import pathlib
import re
import shlex
from collections.abc import Iterator

from tests.runs import ROOT

PAGES = (*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md")
PROGRAMS = ("difflax", "python", "pytest", "pip", "bash")
ELLIPSIS = "…"
"""What the documentation leaves out of a command."""


@dataclasses.dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        page: the file that it stands in, below the repository.
        line: its first line there, from 1.
        language: ``"bash"``, ``"python"``, or empty for an indented block.
        text: what stands in it.
    """

    page: str
    line: int
    language: str
    text: str


@dataclasses.dataclass(frozen=True)
class Command:
    """One command line.

    Attributes:
        page, line: where it stands.
        words: the program and its arguments, without variables in front.
        block: whether it is a block's, to be typed as it stands, or part of a sentence or docstring.
    """

    page: str
    line: int
    words: tuple[str, ...]
    block: bool = True

    def __str__(self) -> str:
        return f"{self.page}:{self.line} {shlex.join(self.words)}"


def blocks(path: pathlib.Path) -> Iterator[Block]:
    """The fenced and indented blocks of a page."""
    page, lines = str(path.relative_to(ROOT)), path.read_text().splitlines()
    number = 0
    while number < len(lines):
        start, fence = number, re.fullmatch(r"```(\w*)", lines[number])
        indented = lines[number].startswith("    ") and (number == 0 or not lines[number - 1].strip())
        number += 1
        if fence:
            end = lines.index("```", number)
            yield Block(page, start + 2, fence[1], "\n".join(lines[number:end]))
            number = end + 1
        elif indented:
            while number < len(lines) and lines[number].startswith("    "):
                number += 1
            yield Block(page, start + 1, "", "\n".join(line[4:] for line in lines[start:number]))


def quoted(text: str) -> list[str]:
    """What stands in quotes in a block and may be the name of a file."""
    return re.findall(r"[\"']([\w./-]+)[\"']", text)


def split_commands(text: str) -> Iterator[tuple[int, tuple[str, ...]]]:
    """The commands of a shell's text, each with its line from 0; a command ends with a line, but for one in
    quotes or after a backslash.
    """
    start, gathered = 0, ""
    for number, line in enumerate(text.splitlines()):
        gathered = f"{gathered}\n{line}" if gathered else line
        if gathered.endswith("\\"):
            gathered = gathered[:-1]
            continue
        try:
            words = shlex.split(gathered, comments=True)
        except ValueError:  # a quote that is open
            continue
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        if words:
            yield start, tuple(words)
        start, gathered = number + 1, ""


def page_commands() -> list[Command]:
    """The commands in the blocks of all pages."""
    found = []
    for block in (block for path in PAGES for block in blocks(path)):
        if block.language in ("bash", "") and re.match(
            rf"([A-Z_]+=\S+ )*({'|'.join(PROGRAMS)}) ", block.text
        ):
            found += [Command(block.page, block.line + n, words) for n, words in split_commands(block.text)]
    return found


def spans(text: str) -> Iterator[tuple[int, str]]:
    """The inline code of Markdown or of a docstring, each with its line from 1; blocks are left out."""
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            fenced = not fenced
        if not fenced and not line.startswith("    "):
            yield from ((number, found) for found in re.findall(r"`([^`]+)`", line))


def inline_commands() -> list[Command]:
    """The commands in the sentences of all pages."""
    found = []
    for path in PAGES:
        for line, span in spans(path.read_text()):
            if re.match(rf"([A-Z_]+=\S+ )*({'|'.join(PROGRAMS)}) \S", span):
                found += [
                    Command(str(path.relative_to(ROOT)), line, words, block=False)
                    for _, words in split_commands(span)
                ]
    return found


def docstring_commands() -> list[Command]:
    """The commands in the docstrings of configs, commands and scripts: lines that start with a program."""
    found = []
    for folder in ("configs", "difflax/cli", "scripts"):
        for path in sorted((ROOT / folder).glob("*.py")):
            page, lines = str(path.relative_to(ROOT)), path.read_text().splitlines()
            for number, line in enumerate(lines):
                if not re.match(r" *(difflax|python) [\w./]+ ", line.lstrip('r"')):
                    continue
                while line.endswith("\\"):
                    number += 1
                    line = f"{line[:-1]} {lines[number].strip()}"
                # Optional parts of a command stand in brackets.
                words = [word.strip("[]") for word in shlex.split(line)]
                found.append(Command(page, number + 1, tuple(words), block=False))
    return found
