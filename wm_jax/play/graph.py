"""A pure JAX function as a graph of a few operations, which a page evaluates without JAX.

JAX traces a function to a jaxpr. Here it becomes a list of nodes, each with an operation that `engine.js` knows. Calls
are inlined, values that do not depend on the arguments are computed in advance, equal nodes are merged, and unused
nodes are dropped. Any world model and any actor can dream in a page if their primitives are among those of
`rules.RULES`.
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
    """Shape and type of an array of the graph."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Node:
    """One operation on values of the graph, which are referred to by number."""

    operation: str
    arguments: tuple[int, ...]
    settings: tuple[tuple[str, Any], ...]
    """Numbers, and tuples of numbers, by name."""
    type: Type


@dataclass(frozen=True)
class Function:
    """One function of a graph: the numbers of its arguments and results, the leaves of its pytrees in order."""

    arguments: tuple[int, ...]
    results: tuple[int, ...]


@dataclass
class Graph:
    """Values by number, of one function or of several that share constants."""

    values: list[Node | np.ndarray | Type] = field(default_factory=list)
    """A node, a constant, or the type of an argument."""
    known: dict[Any, int] = field(default_factory=dict)
    """The number of each constant and node, by content."""

    def constant(self, array: Any) -> int:
        """The number of a constant; added if it is new."""
        array = np.asarray(array)
        return self._number((array.shape, array.dtype.name, sha256(array.tobytes()).digest()), array)

    def argument(self, type: Type) -> int:
        """Add an argument; returns its number."""
        self.values.append(type)
        return len(self.values) - 1

    def node(self, operation: str, arguments: Sequence[int], type: Type, **settings: Any) -> int:
        """The number of an operation's result; added if it is new."""
        node = Node(operation, tuple(arguments), tuple(sorted(settings.items())), type)
        return self._number(node, node)

    def type(self, number: int) -> Type:
        """The type of a value."""
        value = self.values[number]
        if isinstance(value, np.ndarray):
            return Type(value.shape, value.dtype.name)
        return value.type if isinstance(value, Node) else value

    def known_array(self, number: int) -> np.ndarray | None:
        """The array of a constant; None for a value that depends on the arguments."""
        value = self.values[number]
        return value if isinstance(value, np.ndarray) else None

    def needed(self, results: Sequence[int]) -> list[int]:
        """All values that these results need, including themselves, in order."""
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
    """The type of an abstract value. A random key becomes its two numbers."""
    if jnp.issubdtype(aval.dtype, jax.dtypes.prng_key):
        return Type((*aval.shape, 2), "uint32")
    return Type(tuple(aval.shape), np.dtype(aval.dtype).name)
