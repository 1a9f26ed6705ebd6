"""A team of workers stays from one set of jobs to the next, and who has died meanwhile is replaced."""

import os
import platform
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from wm_jax.rollouts.workers import Team

TASK = str(Path(__file__).parents[1] / "probe_task.py")
SETTINGS = {"task": TASK, "max_steps": 7, "seed": 0}


def no_tick(told: Sequence[int]) -> None:
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
        team.workers[0].process.wait()
        assert dict(team.do(range(5), 2, no_tick, told.append)) == first
        replaced = [worker.process.pid for worker in team.workers]
        assert len(replaced) == 2 and processes[0] not in replaced and processes[1] in replaced
        assert told == [], "it had no job that could be lost"


def test_what_a_stopped_set_of_jobs_was_at_is_not_taken_for_the_next_ones() -> None:
    def stop(told: Sequence[int]) -> None:
        raise KeyboardInterrupt

    with Team("wm_jax.bench.bare_game:work", SETTINGS) as team:
        expected = dict(team.do(range(10, 14), 2, no_tick, print))
        stopped = team.do(range(10), 2, no_tick, print)
        next(stopped)
        stopped.close()
        with pytest.raises(KeyboardInterrupt):
            list(team.do(range(10), 2, stop, print))
        assert dict(team.do(range(10, 14), 2, no_tick, print)) == expected


PAGE_FAULTS = """
import resource
from wm_jax.rollouts.workers import keep_freed_memory
keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    surfaces = [bytearray(3_200_000) for _ in range(16)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults(), faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries decide for themselves")
def test_a_worker_is_not_handed_the_same_memory_anew_every_step() -> None:
    """What was freed is there already: it costs no page fault to use it again."""
    told = subprocess.run([sys.executable, "-c", PAGE_FAULTS], capture_output=True, text=True, check=True)
    first, again = map(int, told.stdout.split())
    assert first > 1000 and again < 100
