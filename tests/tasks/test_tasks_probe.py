"""The probe environment's known answer: the other wings' tests lean on it."""

from pathlib import Path

import numpy as np

from wm_jax.rollouts.collect import play
from wm_jax.rollouts.lanes import TaskEnv
from wm_jax.tasks import load_task

PROBE = str(Path(__file__).parents[1] / "probe_task.py")


def test_the_best_answer_is_far_from_chance() -> None:
    task = load_task(PROBE)
    environment = TaskEnv(task, task.make())

    def episodes(policy: str) -> list:
        return [play(environment, task.policy(policy), seed) for seed in range(40)]

    best, chance = episodes("centre"), episodes("random")
    assert np.mean([episode.rewards.sum() for episode in best]) > 75
    assert np.mean([episode.rewards.sum() for episode in chance]) < 35
    assert not any(episode.terminated for episode in best)
    assert sum(episode.terminated for episode in chance) > 20
