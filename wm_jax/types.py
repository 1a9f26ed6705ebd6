"""The shared vocabulary: what flows between world model, dream, actor and search. No logic.

Shapes are written with these letters: B batch, T time, P population, R rollouts a candidate, Z latent size, H hidden
size, K mixtures, A action size, F numbers that an actor reads, D number of a controller's weights, N recorded frames, E
recorded episodes, S start states. `...` stands for any leading axes, none included.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
from flax import struct

Array = jax.Array
Key = jax.Array
"""A typed key of `jax.random.key`; every function that draws takes one and consumes it."""
Params = Any
"""Weights: a pytree of arrays. A world model's are a dict with one entry for each of its learners."""
Population = Any
"""The weights of P candidates: a pytree whose arrays are [P, ...]."""
Returns = jax.Array
"""[P]: one score a candidate, higher is better."""
Action = jax.Array
"""[..., A] in [-1, 1]: what an actor puts out and a world model is fed; a task maps it to what its environment takes."""
State = Any
"""A world model's state: a pytree of its own."""
Features = dict[str, jax.Array]
"""Parts of a world model's state that an actor may read, by name: {"z": [..., Z], "h": [..., H], …}."""
Metrics = dict[str, jax.Array]
"""Numbers that a step reports, by name."""

Fitness = Callable[[Population, Key], Returns]
"""The mean return of each candidate. A search does not know whether a dream or the actual environment is behind it."""

Component = Literal["held", "straight_through", "expectation", "implicit"]
"""How a gradient passes the draw of one of several components, as of a mixture (`memory.mixture.draw`)."""

FLOAT = 4
"""Bytes of a float32."""
HELD_OUT, TRAINED = "held_out_", "trained_"
"""How the names of numbers on learners begin: on episodes that nothing trains on, and on some that were trained on."""


@struct.dataclass
class Outcome:
    """What a world model expects to come of a step. A field that the model does not predict is None."""

    reward: Array | None
    """[...]: the expected reward, in the task's units."""
    end: Array | None
    """[...]: the probability that the episode terminates with the step; any weight in training is already taken out."""
    surprise: Array | None = None
    """[...]: how badly the model expects to have predicted what is seen after the step; a loss, in the model's own unit."""
    entropy: Array | None = None
    """[...]: the loss of predicting what was drawn; its mean over draws is the entropy of the prediction."""


@struct.dataclass
class Observations:
    """Every recorded frame as the world model encodes it, with what was done and what came of it; on the device whole.

    Frame t of an episode is what the agent saw before action t; reward t came with action t. The N frames stand episode
    after episode. No frame is stored after an episode's last action.
    """

    encoded: Any
    """[N, ...]: a pytree, the model's `encode` of each frame, floating point numbers as float16."""
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


@dataclass(frozen=True)
class Curve:
    """What a report draws of the numbers that a learner or a search logs."""

    name: str
    """Of the picture's file."""
    metrics: tuple[str, ...]
    title: str
    caption: str
    logarithmic: bool = False
    band: tuple[str, str] | None = None
    """Metrics that a filled band lies between, with the first of `metrics` as its middle."""
