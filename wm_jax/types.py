"""Shared types: the data that passes between world model, dream, actor and search. No logic.

Shapes use these letters: B batch, T time, P population, R rollouts for each candidate, Z latent size, H hidden size, K
mixtures, A action size, F numbers that an actor reads, D number of a controller's weights, N recorded frames, E
recorded episodes, S start states. `...` stands for any leading axes, including none. A docstring
that gives a letter another meaning says so.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
from flax import struct

Array = jax.Array
Key = jax.Array
"""A typed key of `jax.random.key`. Every function that draws random numbers takes one key and consumes it."""
Params = Any
"""Weights: a pytree of arrays. A world model's weights are a dict with one entry for each learner."""
Population = Any
"""The weights of P candidates: a pytree whose arrays are [P, ...]."""
Returns = jax.Array
"""[P]: one score for each candidate; higher is better."""
Action = jax.Array
"""[..., A] in [-1, 1]: an actor's output and a world model's input. A task converts it to the environment's action."""
State = Any
"""A world model's state: a pytree that the model defines."""
Features = dict[str, jax.Array]
"""Parts of a world model's state that an actor may read, by name: {"z": [..., Z], "h": [..., H], …}."""
Metrics = dict[str, jax.Array]
"""Numbers that a step reports, by name."""

Fitness = Callable[[Population, Key], Returns]
"""The mean return of each candidate. A search does not know whether it comes from a dream or the actual environment."""

Component = Literal["held", "straight_through", "expectation", "implicit"]
"""How a gradient passes through the draw of a component, for example of a mixture (`memory.mixture.draw`)."""

FLOAT = 4
"""Bytes of a float32."""
HELD_OUT, TRAINED = "held_out_", "trained_"
"""Prefixes of metric names: measured on held-out episodes, and on training episodes."""


@struct.dataclass
class Outcome:
    """A world model's prediction of a step's outcome. A field that the model does not predict is None."""

    reward: Array | None
    """[...]: the expected reward, in the task's units."""
    end: Array | None
    """[...]: the probability that the episode terminates with this step, corrected for the weight of ends in
    training."""
    surprise: Array | None = None
    """[...]: the model's expected loss in predicting the next observation, in the model's own unit."""
    entropy: Array | None = None
    """[...]: the loss of predicting the drawn sample. Its mean over draws is the entropy of the prediction."""


@struct.dataclass
class Observations:
    """Every recorded frame as the world model encodes it, with actions and outcomes; whole on the device.

    Frame t of an episode is what the agent saw before action t; reward t came with action t. The N frames are stored
    episode after episode. The observation after an episode's last action is not stored.
    """

    encoded: Any
    """[N, ...]: a pytree, the model's `encode` of each frame; floating point numbers are float16."""
    action: Array
    """[N, A] float32"""
    reward: Array
    """[N] float32"""
    start: Array
    """[E] int32: index of each episode's first frame."""
    length: Array
    """[E] int32: number of frames (= actions) of each episode."""
    terminated: Array
    """[E] bool: whether the episode terminated; False if the time limit cut it off."""


@dataclass(frozen=True)
class Curve:
    """A chart in a report, of numbers that a learner or a search logs."""

    name: str
    """Name of the picture's file."""
    metrics: tuple[str, ...]
    title: str
    caption: str
    logarithmic: bool = False
    band: tuple[str, str] | None = None
    """Metrics that bound a filled band; the first of `metrics` is its middle."""
