"""What a compiled program will do, read from it before it is run: its memory, what devices exchange, its kernels.

The text is XLA's, of the program after all optimisations: computations of instructions, one a line, as
`%name = f32[8,4]{1,0} fusion(%a, %b), kind=kLoop, calls=%inner, …`.
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
"""Instructions that launch nothing themselves."""
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
    """What it computes, as XLA writes it; several in brackets."""
    line: str
    """All of it."""

    @property
    def bytes(self) -> int:
        """Of what it computes."""
        return sum(
            math.prod(int(size) for size in sizes.split(",") if size) * _width(kind)
            for kind, sizes in _SHAPE.findall(self.shape)
        )


@dataclass(frozen=True)
class ProgramFacts:
    """A compiled program."""

    text: str
    """XLA's."""
    memory: int
    """Bytes that it takes of a device: what it is given and gives, what it computes on the way, and its code."""

    @classmethod
    def of(cls, compiled: Compiled) -> "ProgramFacts":
        """The facts of a program that JAX has compiled."""
        told = compiled.memory_analysis()
        assert told is not None, "all of XLA's compilers tell"
        memory = (
            told.argument_size_in_bytes + told.output_size_in_bytes - told.alias_size_in_bytes
            + told.temp_size_in_bytes + told.generated_code_size_in_bytes
        )  # fmt: skip
        return cls(compiled.as_text() or "", memory)

    @cached_property
    def computations(self) -> dict[str, list[Instruction]]:
        """The program's functions and loops by name; fusions and what reductions apply are among them."""
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
        """What devices send each other: of each kind of collective how many there are in the program's text, those in
        loops once, and the bytes of what they compute."""
        counts, sizes = Counter[str](), Counter[str]()
        for instruction in self.instructions():
            # Of two halves the second one tells what came out.
            kind = instruction.kind.removesuffix("-done")
            if kind in _COLLECTIVES:
                counts[kind] += 1
                sizes[kind] += instruction.bytes
        return {kind: (counts[kind], sizes[kind]) for kind in sorted(counts)}

    @cached_property
    def loops(self) -> list[tuple[int, list[Instruction]]]:
        """The loops without another one inside whose number of turns is known: that number, and their instructions."""
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
        """Kernels that are launched for each step of the largest innermost loop that goes so many `steps`, some of them in
        a turn; None where there is no such loop."""
        counts = [
            sum(each.kind not in _NO_KERNELS and not each.kind.endswith("-done") for each in inside) * turns / steps
            for turns, inside in self.loops
            if turns <= steps and steps % turns == 0
        ]
        return max(counts, default=None)


def _width(kind: str) -> int:
    """Bytes of a number of a type such as f32, bf16 or u8."""
    if kind == "pred":
        return 1
    bits = re.search(r"\d+", kind)
    return max(1, int(bits[0]) // 8) if bits else 0
