"""The actual environment beside the dream: one visitor's game, in which C or the visitor acts."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wm_jax.pipeline.bundle import Bundle
from wm_jax.rollouts.agent import AgentState, driver_of
from wm_jax.rollouts.lanes import TaskEnv
from wm_jax.types import Array, Params
from wm_jax.worlds import WorldModel


@dataclass
class Moment:
    """What a visitor sees between two steps."""

    frame: np.ndarray
    """[64, 64, 3] uint8: the actual frame."""
    seen: np.ndarray
    """[64, 64, 3] uint8: the world model's reconstruction of it."""
    earned: float = 0.0
    steps: int = 0
    over: str = ""
    """Why the episode has ended; empty until then."""


class Game:
    """Episodes of the actual environment, one after the other. Not safe for two threads at once."""

    def __init__(self, found: Bundle):
        task = found.models.task
        self.found, self.batch = found, driver_of(found.agent, found.params, found.weights).open(1)
        self.environment = TaskEnv(task, task.make())

    def begin(self, seed: int) -> Moment:
        """The first moment of the episode with this seed."""
        frame = self.environment.reset(seed)
        self.batch.begin({0: (seed, 0)})
        self.now = self._seen(Moment(frame, frame))
        return self.now

    def step(self, action: np.ndarray | None) -> Moment:
        """The moment after `action` [A], float32 in [-1, 1], or after C's action if it is None. After an episode's end,
        nothing changes."""
        if self.now.over:
            return self.now
        if action is not None:
            # The world model needs the action that was taken, C's or the visitor's.
            self.batch.state = replace(self.batch.state, action=jnp.asarray(action)[None])
        taken = np.array(self.batch.state.action[0])
        frame, reward, terminated, truncated = self.environment.step(taken)
        over = "it ended" if terminated else "the time limit was reached" if truncated else ""
        moment = Moment(frame, self.now.seen, self.now.earned + reward, self.now.steps + 1, over)
        self.now = moment if over else self._seen(moment)
        return self.now

    def close(self) -> None:
        """End the game, and any process that it has started."""
        self.environment.close()

    def _seen(self, moment: Moment) -> Moment:
        """The moment with the world model's reconstruction of the frame. C chooses its next action here."""
        self.batch(moment.frame[None])
        return replace(moment, seen=np.array(_drawn(self.found.models.world, self.found.params, self.batch.state)))


@partial(jax.jit, static_argnames="model")
def _drawn(model: WorldModel, params: Params, state: AgentState) -> Array:
    """[64, 64, 3] uint8"""
    world: Any = jax.tree.map(lambda array: array[0], state.world)
    return jnp.round(model.frame(params, world) * 255).astype(jnp.uint8)
