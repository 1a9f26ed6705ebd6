"""A team of workers stays from one set of jobs to the next, and who has died meanwhile is replaced."""

import os
import signal
from pathlib import Path

from wm_jax.rollouts.workers import Team

TASK = str(Path(__file__).parents[1] / "probe_task.py")
SETTINGS = {"task": TASK, "max_steps": 7, "seed": 0}


def no_tick() -> None:
    pass


def test_workers_stay_for_the_next_jobs_and_the_dead_are_replaced() -> None:
    told: list[str] = []
    with Team("wm_jax.bench.bare_game:work", SETTINGS) as team:
        first = dict(team.do(range(5), 2, no_tick, told.append))
        processes = [worker.process.pid for worker in team.workers]
        assert first.keys() == set(range(5)) and len(processes) == 2
        assert dict(team.do(range(5), 2, no_tick, told.append)) == first
        assert [worker.process.pid for worker in team.workers] == processes and told == []
        os.killpg(processes[0], signal.SIGKILL)
        assert dict(team.do(range(5), 2, no_tick, told.append)) == first
        replaced = [worker.process.pid for worker in team.workers]
        assert len(replaced) == 2 and processes[0] not in replaced and processes[1] in replaced
        assert len(told) == 1 and "died with exit code -9" in told[0]
        os.killpg(replaced[0], signal.SIGKILL)
        os.killpg(replaced[1], signal.SIGKILL)
        assert dict(team.do(range(2), 1, no_tick, told.append)).keys() == {0, 1}
