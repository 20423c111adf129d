"""What the fields of a class mean, from the "Attributes:" of its docstring, where it is written once."""

import inspect
import re

_ENTRY = re.compile(r"^(\w+(?:, \w+)*): (.*)$")


def describe(cls: type) -> dict[str, str]:
    """The description of every field that the docstring names, on one line; several may share one."""
    text = inspect.getdoc(cls) or ""
    _, found, block = text.partition("Attributes:")
    if not found:
        return {}
    lines = block.strip("\n").splitlines()
    indent = len(lines[0]) - len(lines[0].lstrip()) if lines else 0
    entries: dict[str, list[str]] = {}
    current: list[str] = []
    for line in lines:
        if line.strip() and len(line) - len(line.lstrip()) < indent:
            break
        entry = _ENTRY.match(line[indent:])
        if entry:
            current = [entry[2]]
            entries |= dict.fromkeys(entry[1].split(", "), current)
        elif line.strip():
            current.append(line.strip())
    return {name: " ".join(parts) for name, parts in entries.items()}
