"""The LSTM cell, and its unrolling along a sequence with a fast derivative."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from wm_jax.types import Array


@struct.dataclass
class MemoryState:
    """The state of M's LSTM."""

    h: Array
    """[..., H]: the output."""
    c: Array
    """[..., H]: the cell."""


Unrolled = tuple[MemoryState, Array]
"""Result of `unroll`, and its cotangents in the backward pass: the last state [B, H], each h [T, B, H]."""
Residuals = tuple[Callable[[Unrolled], tuple[MemoryState, Array]], Array]
"""Values kept from the forward for the backward pass: the pullback from `Unrolled` to the state [B, H] and the gates
[T, B, 4H], and the h [T, B, H] that each step multiplied by the kernel."""


def cell(gates: Array, c: Array) -> MemoryState:
    """The LSTM's state from the gates' pre-activations [..., 4H] (i, f, g, o) and the previous cell [..., H]."""
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return MemoryState(h=jax.nn.sigmoid(o) * jnp.tanh(c), c=c)


def forget(state: MemoryState, restart: Array) -> MemoryState:
    """The state [..., H], set to zero where `restart` [...]."""
    keep = (restart == 0)[..., None]
    return jax.tree.map(lambda array: jnp.where(keep, array, 0), state)


def _scan(kernel: Array, state: MemoryState, gates: Array, restart: Array) -> Unrolled:
    """`unroll` with JAX's own derivative."""

    def step(state: MemoryState, inputs: tuple[Array, Array]) -> tuple[MemoryState, Array]:
        gates, restart = inputs
        state = forget(state, restart)
        state = cell(gates + state.h @ kernel, state.c)
        return state, state.h

    return jax.lax.scan(step, state, (gates, restart))


@jax.custom_vjp
def unroll(kernel: Array, state: MemoryState, gates: Array, restart: Array) -> Unrolled:
    """The state after T steps, and the h [T, B, H] after each.

    Takes the recurrent weights [H, 4H], the state [B, H] before, the inputs' part of the gates [T, B, 4H], and restart
    [T, B], where the state is zeroed before the step. Restart has no derivative.
    """
    return _scan(kernel, state, gates, restart)


def _forward(kernel: Array, state: MemoryState, gates: Array, restart: Array) -> tuple[Unrolled, Residuals]:
    """`unroll` with the same arguments, and the values that its derivative needs."""
    output, pullback = jax.vjp(lambda state, gates: _scan(kernel, state, gates, restart), state, gates)
    before = jnp.concatenate([state.h[None], output[1][:-1]])
    return output, (pullback, jnp.where((restart == 0)[..., None], before, 0))


def _backward(residuals: Residuals, cotangents: Unrolled) -> tuple[Array, MemoryState, Array, None]:
    """The gradients with respect to `unroll`'s arguments: kernel [H, 4H], state [B, H], gates [T, B, 4H]; none for
    restart."""
    # The scan's own derivative would add up the kernel's gradient step by step: T small products, T passes over [H,
    # 4H]. As gates = inputs + h @ kernel, the gradient with respect to the gates gives it in one product at the end.
    pullback, before = residuals
    state, gates = pullback(cotangents)
    return jnp.einsum("tbh,tbg->hg", before, gates), state, gates, None


unroll.defvjp(_forward, _backward)
