"""A pure JAX function as a graph of few operations, which a page evaluates without JAX.

JAX writes a function down as a jaxpr; here it becomes nodes in order, each of an operation that `engine.js` knows. Calls
are inlined, what does not depend on the arguments is computed now, equal nodes are one, and what no result needs goes. So
any world model and any actor whose primitives are among those of `rules.RULES` dream in a page.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Settings = dict[str, Any]


@dataclass(frozen=True)
class Type:
    """What an array of the graph is."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """How many elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Node:
    """One operation on values of the graph, named by their numbers."""

    operation: str
    arguments: tuple[int, ...]
    settings: tuple[tuple[str, Any], ...]
    """Numbers, and tuples of numbers, by name."""
    type: Type


@dataclass(frozen=True)
class Function:
    """One function of a graph: the numbers of its arguments and of its results, the leaves of its pytrees in order."""

    arguments: tuple[int, ...]
    results: tuple[int, ...]


@dataclass
class Graph:
    """Values by number, of one function or of several that share constants."""

    values: list[Node | np.ndarray | Type] = field(default_factory=list)
    """A node, a constant, or the type of an argument."""
    known: dict[Any, int] = field(default_factory=dict)
    """The number of every constant and node, by what it is."""

    def constant(self, array: Any) -> int:
        """The number of a constant."""
        array = np.asarray(array)
        return self._number((array.shape, array.dtype.name, sha256(array.tobytes()).digest()), array)

    def argument(self, type: Type) -> int:
        """The number of a new argument."""
        self.values.append(type)
        return len(self.values) - 1

    def node(self, operation: str, arguments: Sequence[int], type: Type, **settings: Any) -> int:
        """The number of what an operation gives."""
        node = Node(operation, tuple(arguments), tuple(sorted(settings.items())), type)
        return self._number(node, node)

    def type(self, number: int) -> Type:
        """Of a value."""
        value = self.values[number]
        if isinstance(value, np.ndarray):
            return Type(value.shape, value.dtype.name)
        return value.type if isinstance(value, Node) else value

    def known_array(self, number: int) -> np.ndarray | None:
        """The numbers of a constant; None for what depends on the arguments."""
        value = self.values[number]
        return value if isinstance(value, np.ndarray) else None

    def needed(self, results: Sequence[int]) -> list[int]:
        """The values that these need, themselves among them, in order."""
        found: set[int] = set()
        waiting = list(results)
        while waiting:
            number = waiting.pop()
            if number not in found:
                found.add(number)
                value = self.values[number]
                waiting.extend(value.arguments if isinstance(value, Node) else ())
        return sorted(found)

    def _number(self, key: Any, value: Node | np.ndarray) -> int:
        if key not in self.known:
            self.known[key] = len(self.values)
            self.values.append(value)
        return self.known[key]


def type_of(aval: Any) -> Type:
    """The type of an abstract value. A random key is its two numbers."""
    if jnp.issubdtype(aval.dtype, jax.dtypes.prng_key):
        return Type((*aval.shape, 2), "uint32")
    return Type(tuple(aval.shape), np.dtype(aval.dtype).name)
