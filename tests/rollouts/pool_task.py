"""The probe (`tests/probe_task.py`), also as a pool that steps many of its episodes by one call."""

import runpy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

PROBE = runpy.run_path(str(Path(__file__).parents[1] / "probe_task.py"))


class ProbePool:
    def __init__(self, seeds: Sequence[int]):
        assert seeds, "EnvPool, too, makes no empty pools"
        self.seeds, self.environments = seeds, [PROBE["Probe"]() for _ in seeds]

    def reset(self, episodes: np.ndarray) -> np.ndarray:
        return np.stack([self.environments[i].reset(seed=self.seeds[i])[0] for i in episodes])

    def send(self, actions: np.ndarray, episodes: np.ndarray) -> None:
        self.sent = actions, episodes

    def recv(self) -> tuple[np.ndarray, ...]:
        steps = [self.environments[i].step(action) for action, i in zip(*self.sent, strict=True)]
        return tuple(np.array(column) for column in list(zip(*steps, strict=True))[:4])


TASK = replace(PROBE["TASK"], backends={"probe": PROBE["Probe"], "pool": PROBE["Probe"]}, pools={"pool": ProbePool})
