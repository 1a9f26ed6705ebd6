"""Graphs in the form that `engine.js` reads: JSON for the operations, bytes for the constants."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from wm_jax.play.graph import Function, Graph, Node

ALIGNED = 8
"""Alignment of a constant's numbers, in bytes."""
WIDENED = {"bfloat16": "float32", "float16": "float32", "float64": "float32", "int64": "int32", "int8": "int32"}
"""Types that the engine computes as another type."""


@dataclass(frozen=True)
class Program:
    """Functions for a page to evaluate."""

    about: dict[str, Any]
    """For JSON: {"constants", "functions"}."""
    numbers: bytes
    """The constants' numbers, little-endian."""


def program(graph: Graph, functions: Mapping[str, Function]) -> Program:
    """The program for these functions of a graph. Weights that are exact in half precision take two bytes each."""
    needed = {name: graph.needed(function.results) for name, function in functions.items()}
    constants, numbers = [], bytearray()
    for number in sorted(set().union(*needed.values())):
        array = graph.known_array(number)
        if array is None:
            continue
        array = array.astype(_dtype(array.dtype.name), copy=False)
        about = {"number": number, "dtype": array.dtype.name, "offset": len(numbers), "size": array.size}
        if array.dtype == np.float32:
            with np.errstate(over="ignore"):
                half = array.astype(np.float16)
            if np.array_equal(half, array):
                array, about["stored"] = half, "float16"
        constants.append(about)
        numbers += array.tobytes()
        numbers += bytes(-len(numbers) % ALIGNED)
    described = {name: _described(graph, function, needed[name]) for name, function in functions.items()}
    return Program({"constants": constants, "functions": described}, bytes(numbers))


def _described(graph: Graph, function: Function, needed: list[int]) -> dict[str, Any]:
    inputs = []
    for number in function.arguments:
        type = graph.type(number)
        inputs.append({"number": number, "dtype": _dtype(type.dtype), "size": type.size})
    nodes = [
        [node.operation, number, node.arguments, _dtype(node.type.dtype), node.type.size, dict(node.settings)]
        for number in needed
        if isinstance(node := graph.values[number], Node)
    ]
    return {"arguments": inputs, "nodes": nodes, "results": function.results}


def _dtype(name: str) -> str:
    """The type that the engine computes in."""
    return WIDENED.get(name, name)
