"""A stand-in for a world model, whose dreams can be worked out by hand; recordings to start them from; actors for it."""

import math
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from wm_jax.memory import Memory
from wm_jax.tasks import FRAME_SHAPE
from wm_jax.types import Observations, Outcome
from wm_jax.vision import LatentStats, Vision, VisionConfig, sample
from wm_jax.worlds import Actor, WorldModel
from wm_jax.worlds.vision_memory import VisionMemory


@struct.dataclass
class Point:
    """Where the point of a `Line` is, and what came before."""

    z: jax.Array
    """[Z]: where it is."""
    h: jax.Array
    """[Z]: where it was before the last step."""
    c: jax.Array
    """[A]: the last step's action."""
    age: jax.Array
    """[] int32: steps since its episode's first frame."""


@dataclass(frozen=True)
class Line(WorldModel):
    """A world model without weights: a point that each action moves by `push`, z' = z + push * action + N(0, spread^2 tau),
    reward 1 - |z|. The log-odds of an end, those of `done_weight` ends for one, are |z| - `wall`.

    A frame is the brighter the further to the right the point is.
    """

    push: float = 0.5
    spread: float = 0.01
    wall: float = float("inf")
    predicts: bool = True
    latent_size: int = 1
    actions: int = 1
    done_weight: float = 1.0

    @property
    def action_size(self):
        return self.actions

    @property
    def learners(self):
        return {}

    @property
    def missing(self):
        return {} if self.predicts else {name: "set line.predicts to True" for name in ("reward", "end")}

    @property
    def end_threshold(self):
        return 1 / (1 + self.done_weight)

    def encode(self, params, frames):
        brightness = jnp.mean(frames.astype(jnp.float32) / 255, axis=(-3, -2, -1))
        mean = jnp.repeat(2 * brightness[..., None] - 1, self.latent_size, axis=-1)
        return LatentStats(mean, jnp.full_like(mean, -20))

    def begin(self, params, obs, key):
        z = sample(obs, key)
        return Point(z, jnp.zeros_like(z), jnp.zeros(self.action_size, jnp.float32), jnp.int32(0))

    def observe(self, params, state, action, obs, key):
        return Point(sample(obs, key), state.z, action, state.age + 1)

    def noise(self, key):
        return jax.random.normal(key, (self.latent_size,), jnp.float32)

    def imagine(self, params, state, action, noise, temperature):
        z = state.z + self.push * action + self.spread * jnp.sqrt(temperature) * noise
        distance = jnp.abs(state.z[0])
        end = jax.nn.sigmoid(distance - self.wall - math.log(self.done_weight))
        outcome = Outcome(1 - distance, end) if self.predicts else Outcome(None, None)
        return Point(z, state.z, action, state.age + 1), outcome

    def features(self, state):
        return {"z": state.z, "h": state.h, "c": state.c}

    def frame(self, params, state):
        return jnp.full(FRAME_SHAPE, jnp.clip((1 + state.z[0]) / 2, 0, 1), jnp.float32)


@dataclass(frozen=True)
class Breaking(Line):
    """A line beyond whose place 1 a part of what it imagines, "z", "reward" or "end", is not finite."""

    part: str = "z"
    value: float = float("nan")

    def imagine(self, params, state, action, noise, temperature):
        after, outcome = super().imagine(params, state, action, noise, temperature)

        def broken(of):
            return replace(of, **{self.part: jnp.where(after.z[0] > 1, self.value, getattr(of, self.part))})

        return (broken(after), outcome) if self.part == "z" else (after, broken(outcome))


@dataclass(frozen=True)
class Push(Actor):
    """An actor that moves by its one weight, whatever it sees."""

    @property
    def words(self):
        return "its weight"

    def init(self, key):
        return jnp.zeros(1, jnp.float32)

    def act(self, params, world, state, carry, key):
        return params, carry


@dataclass(frozen=True)
class Wavering(Push):
    """Moves by its weight to and fro, each time by a random share of it: it carries a sign, and draws."""

    def begin(self):
        return jnp.ones((), jnp.float32)

    def act(self, params, world, state, carry, key):
        return carry * params * jax.random.uniform(key, (), jnp.float32), -carry


def recordings(lengths=(4, 6), latent_size=1, action_size=1, log_var=-20.0):
    """Episodes whose frame n has a posterior mean of n / 16 (exact in float16) everywhere, and the action -n / 16."""
    frames = sum(lengths)
    number = np.arange(frames, dtype=np.float32)[:, None] / 16
    mean = np.repeat(number, latent_size, axis=1).astype(np.float16)
    return Observations(
        encoded=LatentStats(jnp.asarray(mean), jnp.full((frames, latent_size), log_var, jnp.float16)),
        action=jnp.asarray(np.repeat(-number, action_size, axis=1)),
        reward=jnp.zeros(frames, jnp.float32),
        start=jnp.asarray(np.cumsum((0, *lengths[:-1])), jnp.int32),
        length=jnp.asarray(lengths, jnp.int32),
        terminated=jnp.ones(len(lengths), bool),
    )


def line_starts(line, lengths=(4, 6), log_var=-20.0):
    """The states of a `Line` on the first frames of such recordings, one of each episode."""
    recorded = recordings(lengths, line.latent_size, line.action_size, log_var)
    obs = jax.tree.map(lambda array: array[recorded.start], recorded.encoded)
    keys = jax.random.split(jax.random.key(0), len(lengths))
    return jax.vmap(line.begin, (None, 0, 0))({}, obs, keys)


def vision_memory(config, latent_size, action_size, **settings):
    """The paper's world model with an M of one's own and the smallest V; dreams need M's weights alone, {"memory": …}."""
    vision = Vision(VisionConfig(latent_size=latent_size, width=1))
    return VisionMemory(vision, Memory(config, latent_size, action_size, **settings))
