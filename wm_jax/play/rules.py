"""Rules that turn JAX's primitives into operations of a page's engine (`graph.Graph`, `engine.js`).

Primitives that only move numbers become strided views. Products and convolutions are brought into one order of axes, so
that the engine needs one loop for each.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from wm_jax.errors import UserError
from wm_jax.play.graph import Function, Graph, Settings, Type, type_of

ELEMENTWISE = frozenset((
    "abs", "add", "and", "bitcast_convert_type", "ceil", "cos", "div", "eq", "erf_inv", "exp", "expm1", "floor", "ge", "gt",
    "is_finite", "le", "log", "log1p", "logistic", "lt", "max", "min", "mul", "ne", "neg", "not", "or", "pow", "rem",
    "rsqrt", "select_n", "shift_left", "shift_right_logical", "sign", "sin", "sqrt", "square", "sub", "tanh", "xor",
))  # fmt: skip
"""Elementwise operations with the same name in the engine; an argument of one element is broadcast."""
CALLS = frozenset((
    "jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "remat", "remat2", "checkpoint",
))  # fmt: skip
SAME = frozenset((
    "copy", "stop_gradient", "optimization_barrier", "random_wrap", "random_unwrap", "reshape", "squeeze", "expand_dims",
))  # fmt: skip
"""Primitives whose result has the same numbers in the same order as their argument."""
FOLDED = 1 << 14
"""Maximum size of a result that is computed in advance although it is larger than its inputs."""

UNROLLED = 64
"""Maximum number of iterations of a loop that is unrolled."""
ELSE = "; choose another world model or controller"

Rule = Callable[[Graph, list[int], list[Type], Settings], list[int]]
"""(graph, arguments, types of the results, the primitive's settings) → the numbers of the results."""


def add(graph: Graph, function: Callable[..., Any], *arguments: Any) -> Function:
    """Write `function` into the graph for arguments of these shapes and types. Arrays that it closes over become
    constants.

    Random keys enter and leave as uint32 [..., 2]. Raises `UserError` for a primitive without a rule.
    """
    closed = jax.make_jaxpr(function)(*arguments)
    inputs = [graph.argument(type_of(variable.aval)) for variable in closed.jaxpr.invars]
    return Function(tuple(inputs), tuple(_inline(graph, closed.jaxpr, closed.consts, inputs)))


def _inline(graph: Graph, jaxpr: Any, constants: Sequence[Any], arguments: Sequence[int]) -> list[int]:
    """Write a jaxpr into the graph; returns the numbers of its results for these arguments."""
    closed_over = [graph.constant(constant) for constant in constants]
    numbers = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*closed_over, *arguments), strict=True))

    def read(atom: Any) -> int:
        return (
            graph.constant(np.asarray(atom.val, type_of(atom.aval).dtype))
            if isinstance(atom, core.Literal)
            else numbers[atom]
        )

    for equation in jaxpr.eqns:
        found = _equation(graph, equation, [read(atom) for atom in equation.invars])
        numbers.update(zip(equation.outvars, found, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _equation(graph: Graph, equation: Any, arguments: list[int]) -> list[int]:
    name, settings = equation.primitive.name, equation.params
    if name in CALLS:
        inner = next(settings[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in settings)
        return _inline(graph, getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), arguments)
    types = [type_of(variable.aval) for variable in equation.outvars]
    if name in SAME:
        return [_reshaped(graph, number, type) for number, type in zip(arguments, types, strict=True)]
    known = [array for array in map(graph.known_array, arguments) if array is not None]
    constant = len(known) == len(arguments) and name not in ("cond", *DRAWN)
    if constant and sum(type.size for type in types) <= max(FOLDED, sum(array.size for array in known)):
        return _folded(graph, equation, known)
    if name in ELEMENTWISE:
        return [graph.node(name, [_spread(graph, number, types[0].shape) for number in arguments], types[0])]
    if name not in RULES:
        raise UserError(f"a page cannot evaluate JAX's primitive `{name}`, which this world model or controller uses; it "
                        f"can {', '.join(sorted({*RULES, *ELEMENTWISE, *SAME}))}{ELSE}")  # fmt: skip
    return RULES[name](graph, arguments, types, settings)


def _folded(graph: Graph, equation: Any, arrays: list[Any]) -> list[int]:
    """Compute an equation on constants in advance."""
    if equation.primitive.name == "platform_index":
        # Take the default branch, without optimisations for a particular platform.
        return [graph.constant(np.int32([*equation.params["platforms"]].index(None)))]
    done = equation.primitive.bind(*map(jnp.asarray, arrays), **equation.params)
    return [graph.constant(each) for each in (done if equation.primitive.multiple_results else [done])]


def _reshaped(graph: Graph, number: int, type: Type) -> int:
    """The same numbers in another shape; free for the engine."""
    array = graph.known_array(number)
    if array is not None:
        return graph.constant(array.reshape(type.shape))
    return number if graph.type(number) == type else graph.node("same", [number], type)


def _strides(shape: Sequence[int]) -> list[int]:
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]


def _view(graph: Graph, number: int, type: Type, strides: Sequence[int], offset: int = 0) -> int:
    """A view of the value's numbers, with `offset` and `strides`."""
    if graph.type(number).size == type.size and offset == 0 and list(strides) == _strides(type.shape):
        return _reshaped(graph, number, type)
    array = graph.known_array(number)
    if array is not None:
        flat = np.ascontiguousarray(array).reshape(-1)
        steps = [stride * flat.itemsize for stride in strides]
        return graph.constant(np.lib.stride_tricks.as_strided(flat[offset:], type.shape, steps).copy())
    return graph.node("view", [number], type, offset=offset, shape=type.shape, strides=tuple(strides))


def _spread(graph: Graph, number: int, shape: Sequence[int]) -> int:
    """Broadcast the value to `shape`; a value of one element stays as it is."""
    type = graph.type(number)
    if type.size == 1 or type.shape == tuple(shape):
        return number
    strides = [stride if length > 1 else 0 for stride, length in zip(_strides(type.shape), type.shape, strict=True)]
    return _view(graph, number, Type(tuple(shape), type.dtype), strides)


def _transposed(graph: Graph, number: int, axes: Sequence[int]) -> int:
    type = graph.type(number)
    strides = _strides(type.shape)
    return _view(
        graph, number, Type(tuple(type.shape[axis] for axis in axes), type.dtype), [strides[axis] for axis in axes]
    )


def _transpose(graph: Graph, arguments: list[int], types: list[Type], settings: Settings) -> list[int]:
    return [_transposed(graph, arguments[0], settings["permutation"])]


def _broadcast(graph: Graph, arguments: list[int], types: list[Type], settings: Settings) -> list[int]:
    shape, strides = graph.type(arguments[0]).shape, [0] * len(types[0].shape)
    for axis, stride, length in zip(settings["broadcast_dimensions"], _strides(shape), shape, strict=True):
        strides[axis] = stride if length > 1 else 0
    return [_view(graph, arguments[0], types[0], strides)]


def _rev(graph: Graph, arguments: list[int], types: list[Type], settings: Settings) -> list[int]:
    shape, strides, offset = types[0].shape, _strides(types[0].shape), 0
    for axis in settings["dimensions"]:
        offset += (shape[axis] - 1) * strides[axis]
        strides[axis] *= -1
    return [_view(graph, arguments[0], types[0], strides, offset)]


def _slice(graph: Graph, arguments: list[int], types: list[Type], settings: Settings) -> list[int]:
    # Sliced keys have one more axis than JAX shows: the last one, for their two numbers.
    strides, starts = _strides(graph.type(arguments[0]).shape), settings["start_indices"]
    offset = sum(int(start) * stride for start, stride in zip(starts, strides, strict=False))
    for axis, step in enumerate(settings["strides"] or ()):
        strides[axis] *= int(step)
    return [_view(graph, arguments[0], types[0], strides, offset)]


def _split(graph: Graph, arguments: list[int], types: list[Type], settings: Settings) -> list[int]:
    strides = _strides(graph.type(arguments[0]).shape)
    starts = np.cumsum([0, *settings["sizes"]])[:-1]
    across = strides[settings["axis"]]
    return [_view(graph, arguments[0], type, strides, int(s) * across) for s, type in zip(starts, types, strict=True)]


def _unstack(graph: Graph, arguments: list[int], types: list[Type], settings: Settings) -> list[int]:
    strides = _strides(graph.type(arguments[0]).shape)
    across = strides.pop(settings["axis"])
    return [_view(graph, arguments[0], type, strides, place * across) for place, type in enumerate(types)]


def _concatenated(graph: Graph, arguments: list[int], type: Type, axis: int) -> int:
    # Each argument contributes this many consecutive numbers before the next one.
    rows = [math.prod(graph.type(number).shape[axis:]) for number in arguments]
    return graph.node("concatenate", arguments, type, rows=tuple(rows))


def _concatenate(graph: Graph, arguments: list[int], types: list[Type], settings: Settings) -> list[int]:
    return [_concatenated(graph, arguments, types[0], settings["dimension"])]


def _stack(graph: Graph, arguments: list[int], types: list[Type], settings: Settings) -> list[int]:
    return [_stacked(graph, arguments, types[0], settings["axis"])]


def _stacked(graph: Graph, arguments: list[int], type: Type, axis: int) -> int:
    slab = Type((*type.shape[:axis], 1, *type.shape[axis + 1 :]), type.dtype)
    return _concatenated(graph, [_reshaped(graph, number, slab) for number in arguments], type, axis)


def _pad(graph: Graph, arguments: list[int], types: list[Type], settings: Settings) -> list[int]:
    config = [tuple(int(number) for number in axis) for axis in settings["padding_config"]]
    if any(low < 0 or high < 0 for low, high, _ in config):
        raise UserError("a page cannot evaluate JAX's primitive `pad` with negative padding{ELSE}")
    strides = _strides(types[0].shape)
    offset = sum(low * stride for (low, _, _), stride in zip(config, strides, strict=True))
    apart = tuple((inner + 1) * stride for (_, _, inner), stride in zip(config, strides, strict=True))
    shape = graph.type(arguments[0]).shape
    return [graph.node("pad", arguments, types[0], offset=offset, shape=shape, strides=apart)]


def _clamp(graph: Graph, arguments: list[int], types: list[Type], settings: Settings) -> list[int]:
    low, value, high = arguments
    return [graph.node("min", [graph.node("max", [value, low], types[0]), high], types[0])]


def _convert(graph: Graph, arguments: list[int], types: list[Type], settings: Settings) -> list[int]:
    if types[0].dtype == graph.type(arguments[0]).dtype:
        return arguments
    return [graph.node("convert", arguments, types[0])]


def _round(graph: Graph, arguments: list[int], types: list[Type], settings: Settings) -> list[int]:
    to_even = settings["rounding_method"] == jax.lax.RoundingMethod.TO_NEAREST_EVEN
    return [graph.node("round_to_even" if to_even else "round_away", arguments, types[0])]


def _integer_pow(graph: Graph, arguments: list[int], types: list[Type], settings: Settings) -> list[int]:
    return [graph.node("pow", [arguments[0], graph.constant(np.float32(settings["y"]))], types[0])]


def _dot(graph: Graph, arguments: list[int], types: list[Type], settings: Settings) -> list[int]:
    """[batch, M, K] times [batch, K, N]."""
    (left_summed, right_summed), (left_batch, right_batch) = settings["dimension_numbers"]
    shapes = [graph.type(number).shape for number in arguments]
    free = [
        [axis for axis in range(len(shape)) if axis not in (*summed, *batch)]
        for shape, summed, batch in zip(shapes, (left_summed, right_summed), (left_batch, right_batch), strict=True)
    ]
    left = _transposed(graph, arguments[0], [*left_batch, *free[0], *left_summed])
    right = _transposed(graph, arguments[1], [*right_batch, *right_summed, *free[1]])
    sizes = {
        "batch": math.prod(shapes[0][axis] for axis in left_batch), "m": math.prod(shapes[0][axis] for axis in free[0]),
        "k": math.prod(shapes[0][axis] for axis in left_summed), "n": math.prod(shapes[1][axis] for axis in free[1]),
    }  # fmt: skip
    return [graph.node("product", [left, right], types[0], **sizes)]


def _convolution(graph: Graph, arguments: list[int], types: list[Type], settings: Settings) -> list[int]:
    """[N, H, W, in] with [KH, KW, in, out]."""
    numbers = settings["dimension_numbers"]
    if len(types[0].shape) != 4 or settings["feature_group_count"] != 1 or settings["batch_group_count"] != 1:
        raise UserError(
            f"a page can evaluate only 2-D convolutions over all channels (feature and batch group 1){ELSE}"
        )
    images, kernels, results = (
        (spec[0], *spec[2:], spec[1]) for spec in (numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec)
    )
    left = _transposed(graph, arguments[0], images)
    right = _transposed(graph, arguments[1], (*kernels[1:], kernels[0]))
    shape = tuple(types[0].shape[axis] for axis in results)
    found = graph.node(
        "convolution", [left, right], Type(shape, types[0].dtype), image=graph.type(left).shape,
        kernel=graph.type(right).shape, result=shape, stride=tuple(settings["window_strides"]),
        low=tuple(int(low) for low, _ in settings["padding"]), spread=tuple(settings["lhs_dilation"]),
        apart=tuple(settings["rhs_dilation"]),
    )  # fmt: skip
    return [_transposed(graph, found, np.argsort(results).tolist())]


def _reduce(operation: str) -> Rule:
    def rule(graph: Graph, arguments: list[int], types: list[Type], settings: Settings) -> list[int]:
        shape, axes = graph.type(arguments[0]).shape, settings["axes"]
        kept = [axis for axis in range(len(shape)) if axis not in axes]
        together = _transposed(graph, arguments[0], [*kept, *axes])
        return [graph.node(operation, [together], types[0], count=math.prod(shape[axis] for axis in axes))]

    return rule


def _random(operation: str) -> Rule:
    def rule(graph: Graph, arguments: list[int], types: list[Type], settings: Settings) -> list[int]:
        if graph.type(arguments[0]).shape != (2,) or settings.get("bit_width", 32) != 32:
            raise UserError(
                f"a page can evaluate JAX's primitive `{operation}` only with one key and for 32 bits{ELSE}"
            )
        return [graph.node(operation, arguments, types[0])]

    return rule


def _cond(graph: Graph, arguments: list[int], types: list[Type], settings: Settings) -> list[int]:
    """The branch, if it is known now; otherwise all branches, and a selection of one's results."""
    index, *operands = arguments
    branches, chosen = settings["branches"], graph.known_array(index)
    if chosen is not None:
        branches = [branches[int(np.clip(chosen, 0, len(branches) - 1))]]
    found = [_inline(graph, branch.jaxpr, branch.consts, operands) for branch in branches]
    if len(found) == 1:
        return found[0]
    return [graph.node("select_n", [index, *cases], type) for *cases, type in zip(*found, types, strict=True)]


def _scan(graph: Graph, arguments: list[int], types: list[Type], settings: Settings) -> list[int]:
    """A short loop, unrolled."""
    length, body = settings["length"], settings["jaxpr"]
    if length > UNROLLED:
        raise UserError(
            f"a page cannot evaluate a loop (jax.lax.scan) of {length} steps, only of {UNROLLED} at most{ELSE}"
        )
    # Sliced inputs and stacked outputs have one axis less inside the body; versions of JAX name the counts differently.
    given = [type_of(variable.aval) for variable in body.jaxpr.invars]
    whole = sum(graph.type(number).shape == type.shape for number, type in zip(arguments, given, strict=True))
    carried = sum(type_of(atom.aval).shape == type.shape for atom, type in zip(body.jaxpr.outvars, types, strict=True))
    fixed, carry, rows = arguments[: whole - carried], arguments[whole - carried : whole], arguments[whole:]
    found: dict[int, list[int]] = {}
    for turn in reversed(range(length)) if settings["reverse"] else range(length):
        results = _inline(graph, body.jaxpr, body.consts, [*fixed, *carry, *(_row(graph, row, turn) for row in rows)])
        carry, found[turn] = results[:carried], results[carried:]
    stacked = zip(*(found[turn] for turn in range(length)), strict=True)
    return [
        *carry,
        *(_stacked(graph, list(each), type, 0) for each, type in zip(stacked, types[carried:], strict=True)),
    ]


def _row(graph: Graph, number: int, row: int) -> int:
    type = graph.type(number)
    one = Type(type.shape[1:], type.dtype)
    return _view(graph, number, one, _strides(one.shape), row * one.size)


REDUCED = ("argmax", "argmin", "reduce_and", "reduce_max", "reduce_min", "reduce_or", "reduce_sum")
DRAWN = ("random_bits", "random_fold_in", "random_split")
RULES: dict[str, Rule] = {
    "broadcast_in_dim": _broadcast, "clamp": _clamp, "concatenate": _concatenate, "cond": _cond,
    "conv_general_dilated": _convolution, "convert_element_type": _convert, "dot_general": _dot,
    "integer_pow": _integer_pow, "pad": _pad, "rev": _rev, "round": _round, "scan": _scan, "slice": _slice,
    "split": _split, "stack": _stack, "transpose": _transpose, "unstack": _unstack,
    **{name: _reduce(name) for name in REDUCED}, **{name: _random(name) for name in DRAWN},
}  # fmt: skip
