"""Facts about a compiled program, read before it runs: its memory, its collectives, its kernels.

The text is XLA's, of the program after all optimisations: computations of instructions, one instruction a line, for
example `%name = f32[8,4]{1,0} fusion(%a, %b), kind=kLoop, calls=%inner, …`.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from jax.stages import Compiled

_COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_NO_KERNELS = {
    "parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "partition-id", "replica-id",
    "while", "call", "conditional", "opt-barrier", "domain",
}  # fmt: skip
"""Instructions that launch no kernel themselves."""
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\(")
_SHAPE = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")


@dataclass(frozen=True)
class Instruction:
    """One instruction of a compiled program."""

    name: str
    kind: str
    """fusion, all-reduce, while, …"""
    shape: str
    """The result's shape, as XLA writes it; several shapes in brackets."""
    line: str
    """The whole line."""

    @property
    def bytes(self) -> int:
        """Bytes of the result."""
        return sum(
            math.prod(int(size) for size in sizes.split(",") if size) * _width(kind)
            for kind, sizes in _SHAPE.findall(self.shape)
        )


@dataclass(frozen=True)
class ProgramFacts:
    """A compiled program."""

    text: str
    """The program, as XLA writes it."""
    memory: int
    """Bytes of device memory: arguments, results, temporaries and code."""

    @classmethod
    def of(cls, compiled: Compiled) -> "ProgramFacts":
        """The facts of a program that JAX has compiled."""
        told = compiled.memory_analysis()
        assert told is not None, "every XLA compiler reports its memory"
        memory = (
            told.argument_size_in_bytes + told.output_size_in_bytes - told.alias_size_in_bytes
            + told.temp_size_in_bytes + told.generated_code_size_in_bytes
        )  # fmt: skip
        return cls(compiled.as_text() or "", memory)

    @cached_property
    def computations(self) -> dict[str, list[Instruction]]:
        """The program's functions and loops by name, including fusions and the functions that reductions apply."""
        found: dict[str, list[Instruction]] = {}
        inside = None
        for line in self.text.splitlines():
            if begins := _COMPUTATION.match(line):
                inside = found.setdefault(begins[1], [])
            elif line.startswith("}"):
                inside = None
            elif inside is not None and (told := _INSTRUCTION.match(line)):
                inside.append(Instruction(told[1], told[3], told[2], line))
        return found

    def instructions(self) -> Iterator[Instruction]:
        """All instructions."""
        for computation in self.computations.values():
            yield from computation

    @property
    def exchanged(self) -> dict[str, tuple[int, int]]:
        """Collectives between devices, by kind: how many stand in the program's text (those in loops count once), and
        the bytes of their results."""
        counts, sizes = Counter[str](), Counter[str]()
        for instruction in self.instructions():
            # Of an asynchronous pair, the second instruction has the result's shape.
            kind = instruction.kind.removesuffix("-done")
            if kind in _COLLECTIVES:
                counts[kind] += 1
                sizes[kind] += instruction.bytes
        return {kind: (counts[kind], sizes[kind]) for kind in sorted(counts)}

    @cached_property
    def loops(self) -> list[tuple[int, list[Instruction]]]:
        """The innermost loops whose number of iterations is known: that number, and their instructions."""
        found = []
        for instruction in self.instructions():
            turns = re.search(r'"known_trip_count":\{"n":"(\d+)"', instruction.line)
            body = re.search(r"body=%?([\w.\-]+)", instruction.line)
            if instruction.kind == "while" and turns and body:
                inside = self.computations[body[1]]
                if not any(each.kind == "while" for each in inside):
                    found.append((int(turns[1]), inside))
        return found

    def kernels_of_a_step(self, steps: int) -> float | None:
        """Kernels launched for each step by the largest innermost loop of `steps` steps; an iteration may do several
        steps. None if there is no such loop."""
        counts = [
            sum(each.kind not in _NO_KERNELS and not each.kind.endswith("-done") for each in inside) * turns / steps
            for turns, inside in self.loops
            if turns <= steps and steps % turns == 0
        ]
        return max(counts, default=None)


def _width(kind: str) -> int:
    """Bytes of one number of a type such as f32, bf16 or u8."""
    if kind == "pred":
        return 1
    bits = re.search(r"\d+", kind)
    return max(1, int(bits[0]) // 8) if bits else 0
