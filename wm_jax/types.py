"""The shared vocabulary: what flows between V, M, C and the dream. No logic.

Shapes are written with these letters: B batch, T time, P population, R rollouts a candidate, Z latent size, H hidden
size, K mixtures, A action size, D number of a controller's weights, N recorded frames, E recorded episodes. `...`
stands for any leading axes, none included.
"""

from collections.abc import Callable
from typing import Any

import jax
from flax import struct

Array = jax.Array
Key = jax.Array
"""A typed key of `jax.random.key`; every function that draws takes one and consumes it."""
Params = dict[str, Any]
"""Nested dict of arrays: the weights of V or M."""
Weights = jax.Array
"""[D]: a controller's weights, flat."""
Population = jax.Array
"""[P, D]: one row a candidate."""
Returns = jax.Array
"""[P]: one score a candidate, higher is better."""
Action = jax.Array
"""[..., A] in [-1, 1]: what C puts out and M is fed; a task maps it to what its environment takes."""


@struct.dataclass
class LatentStats:
    """What V says of a frame: the posterior N(mean, exp(log_var)) of its z."""

    mean: Array
    """[..., Z]"""
    log_var: Array
    """[..., Z]"""


@struct.dataclass
class MemoryState:
    """The state of M's LSTM."""

    h: Array
    """[..., H]: the output."""
    c: Array
    """[..., H]: the cell."""


@struct.dataclass
class Mixture:
    """A mixture of K Gaussians for every latent dimension, independent of each other."""

    log_weights: Array
    """[..., Z, K], normalised: logsumexp over K is 0."""
    means: Array
    """[..., Z, K]"""
    log_stds: Array
    """[..., Z, K]"""


@struct.dataclass
class Prediction:
    """What M expects of the next step. Fields that the experiment does not predict are None."""

    next_z: Mixture
    reward: Array | None
    """[...]: the reward of the step just taken, in the task's units."""
    done_logit: Array | None
    """[...]: log-odds of the episode having terminated with the step just taken, too high by the logarithm of M's
    `done_weight`."""


@struct.dataclass
class Latents:
    """Every recorded frame as V's float16 posterior, with what was done and what came of it; lives on the device whole.

    Frame t of an episode is what the agent saw before action t; reward t came with action t. The N frames stand episode
    after episode. No frame is stored after an episode's last action.
    """

    stats: LatentStats
    """[N, Z] float16"""
    action: Array
    """[N, A] float32"""
    reward: Array
    """[N] float32"""
    start: Array
    """[E] int32: where each episode's first frame stands."""
    length: Array
    """[E] int32: frames (= actions) of each episode."""
    terminated: Array
    """[E] bool: whether the episode ended by itself; False where it was cut off by the time limit."""


@struct.dataclass
class Features:
    """What C may know: what V sees now and what M remembers. A policy picks its part."""

    z: Array
    """[..., Z]: sampled, not the mean."""
    memory: MemoryState


Policy = Callable[[Weights, Features], Action]
"""C is nothing more: one candidate's weights [D], one agent's features, one action [A]."""

Fitness = Callable[[Population, Key], Returns]
"""The mean return of each candidate. Evolution does not know whether a dream or the actual environment is behind it."""
