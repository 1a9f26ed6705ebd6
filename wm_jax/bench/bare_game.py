"""A worker process that plays the bare game: the episodes of a collection, without V and without recording. No JAX."""

from collections.abc import Callable

import numpy as np

from wm_jax.rollouts.collect import episode_seed
from wm_jax.rollouts.workers import serve
from wm_jax.tasks import FRAME_SHAPE, load_task
from wm_jax.tasks.calls import own

POLICY = "random"
"""A policy that every task has."""


def work() -> None:
    """The main function of a worker process."""
    serve(prepare)


def prepare(settings: dict, tell: Callable[[int], None] = lambda steps: None) -> Callable[[int], int]:
    """`settings` has task, seed and max_steps. Returns a function: episode number → tics played."""
    task = load_task(settings["task"])
    environment, policy = task.make(), task.policy(POLICY)
    reset, step = own(task.name_of("reset"), environment.reset), own(task.name_of("step"), environment.step)
    taken = own(task.name_of("environment_action"), task.environment_action)
    nothing = np.zeros(FRAME_SHAPE, np.uint8)

    def play(number: int) -> int:
        seed = episode_seed(settings["seed"], number, 0)
        act = policy(np.random.default_rng([seed, 1]))
        reset(seed=seed)
        for tic in range(settings["max_steps"]):
            _, _, terminated, truncated, _ = step(taken(act(tic, nothing)))
            if terminated or truncated:
                return tic + 1
        return settings["max_steps"]

    return play
