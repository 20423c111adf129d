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
from collections.abc import Sequence

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "f64": 8, "s64": 8, "u64": 8}
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


@dataclasses.dataclass(frozen=True)
class _Operation:
    """A line of a computation: ``%name = shapes kind(operands), rest``; one that reads its operands whole and
    writes its result. Kinds that do otherwise are the classes of `_KINDS`.

    In all methods ``here`` is the computation that the operation stands in.
    """

    name: str
    shapes: str
    kind: str
    operands: tuple[str, ...]
    line: str

    @property
    def size(self) -> int:
        """Bytes of its result."""
        return sum(size for size, _ in _sizes(self.shapes))

    @property
    def in_memory(self) -> int:
        """Bytes of its result that lie in the device's memory, not on the chip."""
        return sum(size for size, memory in _sizes(self.shapes) if memory)

    def named(self, what: str) -> str:
        """The computation that the line names as its ``body``, ``condition`` or the one it ``calls``; empty
        if there is none.
        """
        found = re.search(rf"{what}=%?([\w.\-]+)", self.line)
        return found.group(1) if found else ""

    def inner(self, program: "CompiledProgram") -> list[tuple[str, int]]:
        """Computations that it runs, and how often."""
        called = self.named("calls") or self.named("to_apply")
        return [(called, 1)] if called else []

    def written(self, here: "_Computation") -> float:
        """Bytes that it writes."""
        return float(self.size)

    def read(self, place: int, here: "_Computation") -> float:
        """Bytes that it reads of its operand at ``place``, if it does not read the whole of it."""
        return math.inf

    def accessed(self, program: "CompiledProgram", here: "_Computation") -> int:
        """Bytes of memory that it reads and writes."""
        reads = [self.read(place, here) for place in range(len(self.operands))]
        return self._moved(here, self.written(here), reads)

    def _moved(self, here: "_Computation", written: float, reads: Sequence[float]) -> int:
        wholes = [here[operand].in_memory if operand in here else 0 for operand in self.operands]
        return int(min(self.in_memory, written) + sum(map(min, wholes, reads)))


_Computation = dict[str, _Operation]


class _Still(_Operation):
    """Moves nothing itself."""

    def accessed(self, program, here):
        return 0


class _Tuple(_Still):
    """Is written where its parts are."""

    def written(self, here):
        return sum((here[part].written(here) if part in here else math.inf for part in self.operands), 0.0)


class _Bitcast(_Still):
    """Another view of its operand."""

    def written(self, here):
        source = here.get(self.operands[0])
        return source.written(here) if source else math.inf

    def read(self, place, here):
        return _read(self.name, here)


class _Slice(_Operation):
    """Reads no more of its first operand than it gives."""

    def read(self, place, here):
        return float(self.size) if place == 0 else math.inf


class _Update(_Operation):
    """Writes its second operand into its first, in place."""

    def written(self, here):
        update = here.get(self.operands[1])
        return float(update.size) if update else math.inf

    def read(self, place, here):
        return 0.0 if place == 0 else math.inf


class _Fusion(_Operation):
    """Reads and writes what its computation reads of its parameters and results in; what is between stays on
    the chip.
    """

    def accessed(self, program, here):
        fused = program.computations.get(self.named("calls"))
        if not fused:
            return super().accessed(program, here)
        parameters = [_parameter(fused, number) for number in range(len(self.operands))]
        reads = [sum((_read(name, fused) for name in names), 0.0) for names in parameters]
        return self._moved(here, list(fused.values())[-1].written(fused), reads)


class _Call(_Operation):
    """Runs computations one after the other."""

    def accessed(self, program, here):
        return sum(times * program.accessed(name) for name, times in self.inner(program))


class _Loop(_Call):
    """Runs its body many times."""

    def inner(self, program):
        return [(self.named("body"), self._trips(program))]

    def _trips(self, program: "CompiledProgram") -> int:
        """How often it runs: as the compiler has noted, or as far as its condition lets a counter go that
        starts at zero, as those of JAX and of XLA do; once where neither tells.
        """
        if noted := re.search(r'"known_trip_count":\{"n":"(\d+)"', self.line):
            return int(noted.group(1))
        condition = program.computations.get(self.named("condition"), {}).values()
        ends = [re.search(r"constant\((\d+)\)", o.line) for o in condition if o.kind == "constant"]
        counts = any("direction=LT" in operation.line for operation in condition)
        return int(ends[0].group(1)) if len(ends) == 1 and ends[0] and counts else 1


class _Conditional(_Operation):
    """Runs one of its branches: the dearest counts."""

    def inner(self, program):
        return [(n, 1) for n in re.findall(r"%([\w.\-]+)", self.line) if n in program.computations]

    def accessed(self, program, here):
        return max((program.accessed(name) for name, _ in self.inner(program)), default=0)


class _Start(_Operation):
    """Starts what another operation ends; its result names its operand too."""

    @property
    def size(self) -> int:
        """Bytes of the largest part of its result."""
        return max((size for size, _ in _sizes(self.shapes)), default=0)

    def accessed(self, program, here):
        return self.in_memory


_KINDS: dict[str, type[_Operation]] = {
    "parameter": _Still,
    "constant": _Still,
    "get-tuple-element": _Still,
    "tuple": _Tuple,
    "bitcast": _Bitcast,
    "slice": _Slice,
    "dynamic-slice": _Slice,
    "gather": _Slice,
    "dynamic-update-slice": _Update,
    "fusion": _Fusion,
    "call": _Call,
    "while": _Loop,
    "conditional": _Conditional,
}
_PHASES: dict[str, type[_Operation]] = {"start": _Start, "done": _Still}
"""Of an operation that goes on beside others, as ``all-gather-start``, by the end of its kind."""


def _parameter(computation: _Computation, number: int) -> list[str]:
    """The names of a computation's parameter of that number."""
    return [n for n, o in computation.items() if o.kind == "parameter" and f"parameter({number})" in o.line]


def _read(name: str, computation: _Computation) -> float:
    """Bytes that the operations of a computation read of the result of that name."""
    readers = [operation for operation in computation.values() if name in operation.operands]
    return sum((reader.read(reader.operands.index(name), computation) for reader in readers), 0.0)


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
    made = _KINDS.get(kind) or _PHASES.get(kind.rpartition("-")[2], _Operation)
    return made(name, shapes, kind, tuple(re.findall(r"%([\w.\-]+)", rest.split("), ")[0])), line)


class CompiledProgram:
    """The text of a compiled program, taken apart: ``computations`` by name, each its operations by name, in
    order, the last one its result; ``entry`` is where it begins.
    """

    def __init__(self, text: str):
        self.computations: dict[str, _Computation] = {}
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
            for inner, rounds in operation.inner(self):
                self._collectives(inner, times * rounds, moved)

    def accessed_bytes(self) -> int:
        """Bytes that are read from and written to the device's memory: of every operation its operands and
        its result, what a fusion does inside excepted; of arrays of which only a slice is read or replaced,
        the slice; of branches the dearest.
        """
        return self.accessed(self.entry)

    @functools.cache  # noqa: B019  a program lives as long as its plan is made
    def accessed(self, name: str) -> int:
        """The same of one computation."""
        here = self.computations.get(name, {})
        return sum(operation.accessed(self, here) for operation in here.values())
