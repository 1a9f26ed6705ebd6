"""The two kinds of convolution that V is made of: stride 2, no padding; each is the adjoint of the other.

XLA's CPU gradients of strided convolutions are many times slower than its matrix products, so on a CPU both kinds
become products: a convolution multiplies all patches of its input with the kernel; a transposed one multiplies its
input with the kernel and adds up the overlapping patches. Kernels are stored alike for both forms. The form follows the
machine that a program is compiled for, which need not be the one that compiles it.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from wm_jax.types import Array

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_CHUNK_BYTES = 4 * 2**20
"""So many images are worked on at a time that their patches fit in this: in the cache, in memory that is reused."""


def convolution(x: Array, kernel: Array) -> Array:
    """`x` [B, H, H, C] and `kernel` [k, k, C, O], k even, to [B, n, n, O] with n = (H - k) // 2 + 1."""
    return lax.platform_dependent(x, kernel, cpu=convolution_by_products, default=plain_convolution)


def transposed_convolution(x: Array, kernel: Array) -> Array:
    """`x` [B, H, H, C] and `kernel` [k, k, O, C] to [B, n, n, O] with n = 2 * H + k - 2."""
    return lax.platform_dependent(
        x, kernel, cpu=transposed_convolution_by_products, default=plain_transposed_convolution
    )


def plain_convolution(x: Array, kernel: Array) -> Array:
    """`convolution` as XLA has it."""
    return lax.conv_general_dilated(x, kernel, (2, 2), "VALID", dimension_numbers=_LAYOUT)


def plain_transposed_convolution(x: Array, kernel: Array) -> Array:
    """`transposed_convolution` as XLA has it."""
    return lax.conv_transpose(x, kernel, (2, 2), "VALID", dimension_numbers=_LAYOUT, transpose_kernel=True)


def convolution_by_products(x: Array, kernel: Array) -> Array:
    """`convolution` as products of patches and kernel."""
    size = kernel.shape[0]
    steps = (x.shape[1] - size) // 2
    used = 2 * steps + size
    form = partial(_multiply_patches, size=size)
    return _by_chunks(form, x[:, :used, :used], kernel.reshape(-1, kernel.shape[-1]).T, (steps + 1) ** 2)


def transposed_convolution_by_products(x: Array, kernel: Array) -> Array:
    """`transposed_convolution` as products, whose patches are added up."""
    size, _, outputs, channels = kernel.shape
    if x.shape[1] == 1:
        return (x.reshape(-1, channels) @ kernel.reshape(-1, channels).T).reshape(-1, size, size, outputs)
    odd = size % 2
    kernel = jnp.pad(kernel, ((0, odd), (0, odd), (0, 0), (0, 0)))
    form = partial(_add_patches, size=size + odd)
    y = _by_chunks(form, x, kernel.reshape(-1, channels), x.shape[1] ** 2)
    return y[:, : y.shape[1] - odd, : y.shape[2] - odd]


def _by_chunks(form: Callable[[Array, Array], Array], x: Array, matrix: Array, patches: int) -> Array:
    """`form(x, matrix)` for as many images, of so many `patches` each, at a time as `_CHUNK_BYTES` allow.

    Patches are made anew for the gradient, which saves memory and costs no time. `matrix` is [outputs, inputs], so that
    its own gradient comes out of a chunk as it lies; the other way about, this product takes up to twice as long.
    """
    form = jax.checkpoint(form)
    size = max(1, _CHUNK_BYTES // (4 * patches * max(matrix.shape)))
    if len(x) <= size:
        return form(x, matrix)
    whole = len(x) // size * size
    parts = lax.map(lambda part: form(part, matrix), x[:whole].reshape(-1, size, *x.shape[1:]))
    parts = parts.reshape(whole, *parts.shape[2:])
    return parts if whole == len(x) else jnp.concatenate([parts, form(x[whole:], matrix)])


def _multiply_patches(x: Array, matrix: Array, size: int) -> Array:
    return _patches(x, size) @ matrix.T


def _add_patches(x: Array, matrix: Array, size: int) -> Array:
    return _overlap_add(x @ matrix.T, size)


def _gather_patches(x: Array, size: int) -> Array:
    """`x` [B, H, H, C] to its patches [B, n, n, size * size * C] at every other pixel; H and `size` must be even.

    Taking pixels in pairs, which are neighbours in memory, makes the stride 1 and the copied pieces long.
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


# Each is the other's gradient; the ones that JAX derives from slices and sums are slower.
_patches = jax.custom_vjp(_gather_patches, nondiff_argnums=(1,))
_overlap_add = jax.custom_vjp(_add_overlapping, nondiff_argnums=(1,))
_patches.defvjp(lambda x, size: (_patches(x, size), None), lambda size, _, g: (_overlap_add(g, size),))
_overlap_add.defvjp(lambda y, size: (_overlap_add(y, size), None), lambda size, _, g: (_patches(g, size),))
