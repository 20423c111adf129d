"""What a compiled program moves, read from its text (XLA's HLO), loops as often as they run.

XLA's own cost analysis counts the body of a loop once, which a stack of layers (``jax.lax.scan``) and a
product whose operand comes in parts over the links ("windowed einsum") both are, and takes what a TPU keeps
on the chip (VMEM) for memory traffic. The tools that do better
(XProf) read the profile of a run; a plan is made where the devices are not.
"""

import collections
import dataclasses
import functools
import math
import re

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "f64": 8, "s64": 8, "u64": 8}
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_STILL = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast")
"""Operations that move nothing themselves."""


@dataclasses.dataclass(frozen=True)
class _Operation:
    """A line of a computation: ``%name = shapes kind(operands), rest``."""

    name: str
    shapes: str
    kind: str
    operands: tuple[str, ...]
    line: str

    @property
    def size(self) -> int:
        """Bytes of its result, of a tuple's largest part if that names what an operation is started with."""
        sizes = [size for size, _ in _sizes(self.shapes)]
        return max(sizes, default=0) if self.kind.endswith("-start") else sum(sizes)

    @property
    def in_memory(self) -> int:
        """Bytes of its result that lie in the device's memory, not on the chip."""
        return sum(size for size, memory in _sizes(self.shapes) if memory)

    def named(self, what: str) -> str | None:
        """The computation that the line names as its ``body``, ``condition`` or the one it ``calls``."""
        found = re.search(rf"{what}=%?([\w.\-]+)", self.line)
        return found.group(1) if found else None


def _sizes(shapes: str) -> list[tuple[int, bool]]:
    """Bytes of each array in a result's type, and whether it lies in the device's memory, where its layout
    names no other place, as in ``S(1)``.
    """
    return [
        (
            math.prod(int(n) for n in dims.split(",") if n) * _BYTES.get(kind, 4),
            not re.search(r"S\([1-9]", layout),
        )
        for kind, dims, layout in re.findall(r"\b([a-z]+\d*)\[([\d,]*)\](\{[^}]*\})?", shapes)
    ]


def _operation(line: str) -> _Operation | None:
    found = re.match(r"\s*(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z0-9\-]*)\((.*)", line)
    if not found:
        return None
    name, shapes, kind, rest = found.groups()
    return _Operation(name, shapes, kind, tuple(re.findall(r"%([\w.\-]+)", rest.split("), ")[0])), line)


class Program:
    """The text of a compiled program, taken apart: ``computations`` by name, each its operations by name, in
    order, the last one its result; ``entry`` is where it begins.
    """

    def __init__(self, text: str):
        self.computations: dict[str, dict[str, _Operation]] = {}
        self.entry = current = ""
        for line in text.splitlines():
            if opening := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{\s*$", line):
                current = opening.group(2)
                self.computations[current] = {}
                self.entry = current if opening.group(1) else self.entry
            elif line.startswith("}"):
                current = ""
            elif current and (operation := _operation(line)):
                self.computations[current][operation.name] = operation

    def _trips(self, loop: _Operation) -> int:
        """How often a loop runs: as the compiler has noted, or as far as its condition lets a counter go that
        starts at zero, as those of JAX and of XLA do; once where neither tells.
        """
        if noted := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.line):
            return int(noted.group(1))
        condition = self.computations.get(loop.named("condition") or "", {}).values()
        ends = [re.search(r"constant\((\d+)\)", o.line) for o in condition if o.kind == "constant"]
        counts = any("direction=LT" in operation.line for operation in condition)
        return int(ends[0].group(1)) if len(ends) == 1 and ends[0] and counts else 1

    def _inner(self, operation: _Operation) -> list[tuple[str, int]]:
        """Computations that an operation runs, and how often."""
        if operation.kind == "while":
            return [(operation.named("body") or "", self._trips(operation))]
        if operation.kind == "conditional":
            return [(n, 1) for n in re.findall(r"%([\w.\-]+)", operation.line) if n in self.computations]
        called = operation.named("calls") or operation.named("to_apply")
        return [(called, 1)] if called else []

    def collective_bytes(self) -> dict[str, int]:
        """Bytes of the results of every kind of collective, a device's share."""
        moved: dict[tuple[str, str], tuple[int, int]] = {}
        self._collectives(self.entry, 1, moved)
        found: collections.Counter[str] = collections.Counter()
        for (kind, _), (size, times) in moved.items():
            found[kind] += size * times
        return dict(found)

    def _collectives(self, name: str, times: int, moved: dict[tuple[str, str], tuple[int, int]]) -> None:
        """Adds the size of each collective in ``name``, which runs so many times. One collective may stand in
        several fusions, which start it, go on with it within a loop of their own, and take its result; they
        have its channel in common.
        """
        for operation in self.computations.get(name, {}).values():
            kind = operation.kind.removesuffix("-start")
            if kind in _COLLECTIVES:
                channel = re.search(r"channel_id=(\d+)", operation.line)
                one = (kind, channel.group(1) if channel else f"{name}/{operation.name}")
                largest, least = moved.get(one, (0, times))
                moved[one] = max(largest, operation.size), min(least, times)
            for inner, rounds in self._inner(operation):
                self._collectives(inner, times * rounds, moved)

    def accessed_bytes(self) -> int:
        """Bytes that are read from and written to the device's memory: of every operation its operands and
        its result, what a fusion does inside excepted; of arrays of which only a slice is read or replaced,
        the slice; of branches the dearest.
        """
        return self._accessed(self.entry)

    @functools.cache  # noqa: B019  a program lives as long as its plan is made
    def _accessed(self, name: str) -> int:
        here, total = self.computations.get(name, {}), 0
        for operation in here.values():
            if operation.kind in ("while", "call"):
                total += sum(times * self._accessed(inner) for inner, times in self._inner(operation))
            elif operation.kind == "conditional":
                total += max((self._accessed(inner) for inner, _ in self._inner(operation)), default=0)
            elif operation.kind.endswith("-start"):  # its result names its operand
                total += operation.in_memory
            elif operation.kind not in _STILL and not operation.kind.endswith("-done"):
                total += self._moved(operation, here)
        return total

    def _moved(self, operation: _Operation, here: dict[str, _Operation]) -> int:
        """Bytes of memory that one operation reads and writes."""
        fused = self.computations.get(operation.named("calls") or "") if operation.kind == "fusion" else None
        written = _written(list(fused.values())[-1], fused) if fused else _written(operation, here)
        total = min(operation.in_memory, written)
        for place, operand in enumerate(operation.operands):
            whole = here[operand].in_memory if operand in here else 0
            total += min(whole, _read(fused, place) if fused else _sliced(operation, place))
        return int(total)


def _written(result: _Operation, computation: dict[str, _Operation]) -> float:
    """Bytes that an operation of a computation writes."""
    parts = result.operands if result.kind == "tuple" else (result.name,)
    total = 0.0
    for part in (computation.get(name) for name in parts):
        while part and part.kind == "bitcast":
            part = computation.get(part.operands[0])
        if part and part.kind == "dynamic-update-slice":
            part = computation.get(part.operands[1])
        total += part.size if part else math.inf
    return total


def _read(computation: dict[str, _Operation], number: int) -> float:
    """Bytes that a fused computation reads of its parameter of that number."""
    names = [n for n, o in computation.items() if o.kind == "parameter" and f"parameter({number})" in o.line]
    total = 0.0
    while names:
        name = names.pop()
        for operation in computation.values():
            if name in operation.operands and operation.kind == "bitcast":
                names.append(operation.name)
            elif name in operation.operands:
                total += _sliced(operation, operation.operands.index(name))
    return total


def _sliced(operation: _Operation, place: int) -> float:
    """Bytes that an operation reads of its operand at ``place``, if it does not read the whole of it."""
    if place == 0 and operation.kind in ("dynamic-slice", "slice", "gather"):
        return float(operation.size)
    return 0.0 if place == 0 and operation.kind == "dynamic-update-slice" else math.inf
