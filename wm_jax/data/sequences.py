"""Steps of recorded episodes, as sequence learners read them."""

import jax.numpy as jnp
from flax import struct

from wm_jax.types import Array, Observations


@struct.dataclass
class Steps:
    """T steps of B sequences, time first: the actions and their outcomes."""

    action: Array
    """[T, B, A]"""
    restart: Array
    """[T, B] bool: True on an episode's first step."""
    has_next: Array
    """[T, B] bool: False on an episode's last step."""
    reward: Array
    """[T, B]"""
    done: Array
    """[T, B] bool: True if the episode terminated with this step."""
    done_known: Array
    """[T, B] bool: False on the last step of an episode that was cut off, for which termination is unknown."""


def steps_at(recorded: Observations, positions: Array) -> Steps:
    """The steps at `positions` [T, B] among the N frames.

    Along T, positions increase by one within an episode, and jump only from an episode's last frame to a first frame.
    """
    episode = jnp.searchsorted(recorded.start, positions, side="right") - 1
    offset = positions - recorded.start[episode]
    last = offset == recorded.length[episode] - 1
    terminated = recorded.terminated[episode]
    return Steps(
        action=recorded.action[positions],
        restart=offset == 0,
        has_next=~last,
        reward=recorded.reward[positions],
        done=last & terminated,
        done_known=~last | terminated,
    )
