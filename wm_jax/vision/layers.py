"""V's two kinds of convolution: stride 2, no padding; each is the adjoint of the other.

XLA's CPU gradients of strided convolutions are many times slower than its matrix products. On a CPU both kinds
therefore become products: a convolution multiplies all patches of its input with the kernel; a transposed convolution
multiplies its input with the kernel and adds up the overlapping patches. Both forms use the same kernels. The form
depends on the machine that a program is compiled for, not on the one that compiles it.
"""

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from wm_jax.types import Array

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_CHUNK_BYTES = 4 * 2**20
"""Upper limit for the patches of the images processed at a time: they stay in the cache, in reused memory."""
_MOST_ROWS = 1.25
"""Multiply windows if there are at most this many times as many rows as rows of patches."""


def convolution(x: Array, kernel: Array) -> Array:
    """`x` [B, H, H, C] and `kernel` [k, k, C, O], k even, to [B, n, n, O] with n = (H - k) // 2 + 1."""
    return lax.platform_dependent(x, kernel, cpu=convolution_by_products, default=plain_convolution)


def transposed_convolution(x: Array, kernel: Array) -> Array:
    """`x` [B, H, H, C] and `kernel` [k, k, O, C] to [B, n, n, O] with n = 2 * H + k - 2."""
    return lax.platform_dependent(
        x, kernel, cpu=transposed_convolution_by_products, default=plain_transposed_convolution
    )


def plain_convolution(x: Array, kernel: Array) -> Array:
    """`convolution` by XLA's own operation."""
    return lax.conv_general_dilated(x, kernel, (2, 2), "VALID", dimension_numbers=_LAYOUT)


def plain_transposed_convolution(x: Array, kernel: Array) -> Array:
    """`transposed_convolution` by XLA's own operation."""
    return lax.conv_transpose(x, kernel, (2, 2), "VALID", dimension_numbers=_LAYOUT, transpose_kernel=True)


def convolution_by_products(x: Array, kernel: Array) -> Array:
    """`convolution` as products with the kernel: of patches, or of windows if there are many rows."""
    size, outputs = kernel.shape[0], kernel.shape[-1]
    n, half = (x.shape[1] - size) // 2 + 1, size // 2
    rows = n + half - 1
    x = x[:, : 2 * rows, : 2 * rows]
    if rows > _MOST_ROWS * n:
        return _multiply(partial(_multiply_patches, size=size), x, kernel.reshape(-1, outputs).T, n**2)
    matrix = jnp.moveaxis(kernel.reshape(half, -1, outputs), 1, 2).reshape(half * outputs, -1)
    return _multiply(partial(_multiply_windows, size=size), x, matrix, rows * n)


def transposed_convolution_by_products(x: Array, kernel: Array) -> Array:
    """`transposed_convolution` as products, whose overlapping patches are added up."""
    size, _, outputs, channels = kernel.shape
    if x.shape[1] == 1:
        return (x.reshape(-1, channels) @ kernel.reshape(-1, channels).T).reshape(-1, size, size, outputs)
    odd = size % 2
    kernel = jnp.pad(kernel, ((0, odd), (0, odd), (0, 0), (0, 0)))
    form = partial(_add_patches, size=size + odd)
    y = _multiply(form, x, kernel.reshape(-1, channels), x.shape[1] ** 2)
    return y[:, : y.shape[1] - odd, : y.shape[2] - odd]


def _multiply(form: Callable[[Array, Array], Array], x: Array, matrix: Array, patches: int) -> Array:
    """`form(x, matrix)` for as many images at a time, of this many `patches` each, as `_CHUNK_BYTES` allows.

    The gradient recomputes the patches, which saves memory and costs no time. `matrix` is [outputs, inputs], the layout
    of its own gradient; the other layout takes up to twice as long.
    """
    form = jax.checkpoint(form)
    return by_chunks(lambda part: form(part, matrix), x, max(1, _CHUNK_BYTES // (4 * patches * max(matrix.shape))))


def by_chunks(function: Callable[[Array], Any], x: Array, size: int) -> Any:
    """`function(x)`, from [B, ...] to a pytree of [B, ...], for `size` rows at a time, then for the rest."""
    if len(x) <= size:
        return function(x)
    whole = len(x) // size * size
    parts = lax.map(function, x[:whole].reshape(-1, size, *x.shape[1:]))
    parts = jax.tree.map(lambda part: part.reshape(whole, *part.shape[2:]), parts)
    return parts if whole == len(x) else jax.tree.map(lambda *p: jnp.concatenate(p), parts, function(x[whole:]))


def _multiply_patches(x: Array, matrix: Array, size: int) -> Array:
    return _patches(x, size) @ matrix.T


def _multiply_windows(x: Array, matrix: Array, size: int) -> Array:
    half, n = size // 2, (x.shape[1] - size) // 2 + 1
    y = _windows(x, size) @ matrix.T
    y = y.reshape(*y.shape[:-1], half, -1)
    return reduce(jnp.add, [y[:, i : i + n, :, i] for i in range(half)])


def _add_patches(x: Array, matrix: Array, size: int) -> Array:
    return _overlap_add(x @ matrix.T, size)


def _gather_patches(x: Array, size: int) -> Array:
    """`x` [B, H, H, C] to its patches [B, n, n, size * size * C] at every other pixel; H and `size` must be even.

    Pairs of pixels, which are adjacent in memory, make the stride 1 and the copied pieces long.
    """
    half, pairs = size // 2, x.shape[1] // 2
    n = pairs - half + 1
    x = x.reshape(-1, pairs, 2, pairs, 2 * x.shape[-1])
    return jnp.concatenate(
        [x[:, i : i + n, row, j : j + n] for i in range(half) for row in range(2) for j in range(half)], -1
    )


def _add_overlapping(patches: Array, size: int) -> Array:
    """The adjoint of `_gather_patches`: [B, n, n, size * size * C] to [B, H, H, C], H = 2 * n + size - 2."""
    half, n = size // 2, patches.shape[1]
    channels = patches.shape[-1] // size**2
    y = patches.reshape(-1, n, n, half, 2, half, 2 * channels)
    total = sum(
        jnp.pad(y[:, :, :, i, :, j], ((0, 0), (i, half - 1 - i), (j, half - 1 - j), (0, 0), (0, 0)))
        for i in range(half)
        for j in range(half)
    )
    height = 2 * (n + half - 1)
    return jnp.moveaxis(total, 3, 2).reshape(-1, height, height, channels)


def _gather_windows(x: Array, size: int) -> Array:
    """`x` [B, H, H, C] to [B, H / 2, n, 2 * size * C]: for every pair of rows, the part in each patch's columns.

    A patch consists of `size` / 2 windows below each other. Each window is multiplied for all of its possible positions
    in a patch, and the products are added up. A window is copied once, where patches would copy it `size` / 2 times.
    """
    half, pairs = size // 2, x.shape[1] // 2
    n = pairs - half + 1
    x = x.reshape(-1, pairs, 2, pairs, 2 * x.shape[-1])
    return jnp.concatenate([x[:, :, row, j : j + n] for row in range(2) for j in range(half)], -1)


def _add_windows(windows: Array, size: int) -> Array:
    """The adjoint of `_gather_windows`: [B, H / 2, n, 2 * size * C] to [B, H, H, C]."""
    half, (pairs, n, width) = size // 2, windows.shape[1:]
    channels = width // (2 * size)
    y = windows.reshape(-1, pairs, n, 2, half, 2 * channels)
    total = sum(jnp.pad(y[..., j, :], ((0, 0), (0, 0), (j, half - 1 - j), (0, 0), (0, 0))) for j in range(half))
    return jnp.moveaxis(total, 3, 2).reshape(-1, 2 * pairs, 2 * pairs, channels)


# Each is the gradient of the other; JAX's derivatives of slices and sums are slower.
_patches = jax.custom_vjp(_gather_patches, nondiff_argnums=(1,))
_overlap_add = jax.custom_vjp(_add_overlapping, nondiff_argnums=(1,))
_patches.defvjp(lambda x, size: (_patches(x, size), None), lambda size, _, g: (_overlap_add(g, size),))
_windows = jax.custom_vjp(_gather_windows, nondiff_argnums=(1,))
_windows.defvjp(lambda x, size: (_windows(x, size), None), lambda size, _, g: (_add_windows(g, size),))
_overlap_add.defvjp(lambda y, size: (_overlap_add(y, size), None), lambda size, _, g: (_patches(g, size),))
