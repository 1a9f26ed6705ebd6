"""An environment with a known answer, for tests: keep a bright block in the middle of the screen.

The block's position x in [-1, 1] is pushed by the action and falls away from the middle by itself. Reward is 1 - |x|;
touching a wall ends the episode. Pushing towards the middle, action = -x / 0.1 clipped, scores above 75 of 80; random
actions reach a wall before half of the time is over.
"""

import gymnasium
import numpy as np

from wm_jax.tasks import FRAME_SHAPE, Act, PolicySettings, Task

MAX_STEPS = 80
BLOCK = 12


class Probe(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 255, FRAME_SHAPE, np.uint8)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def _screen(self) -> np.ndarray:
        frame = np.full(FRAME_SHAPE, 30, np.uint8)
        left = round((self.x + 1) / 2 * (FRAME_SHAPE[1] - BLOCK))
        frame[26:38, left : left + BLOCK] = 220
        return frame

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.x = self.np_random.uniform(-0.5, 0.5)
        self.steps = 0
        return self._screen(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        moved = 1.08 * self.x + 0.1 * float(action[0]) + 0.02 * self.np_random.standard_normal()
        self.x = float(np.clip(moved, -1, 1))
        self.steps += 1
        return self._screen(), 1 - abs(self.x), abs(self.x) >= 1, self.steps >= MAX_STEPS, {}


def uniform(generator: np.random.Generator, settings: PolicySettings) -> Act:
    return lambda step, frame: generator.uniform(-1, 1, 1).astype(np.float32)


def held(generator: np.random.Generator, settings: PolicySettings) -> Act:
    """A uniform action, changed with chance 0.2 a step: it visits the walls and the middle alike."""
    action = generator.uniform(-1, 1, 1).astype(np.float32)

    def act(step: int, frame: np.ndarray) -> np.ndarray:
        nonlocal action
        if generator.uniform() < 0.2:
            action = generator.uniform(-1, 1, 1).astype(np.float32)
        return action

    return act


def right(generator: np.random.Generator, settings: PolicySettings) -> Act:
    """Into the wall."""
    return lambda step, frame: np.ones(1, np.float32)


def centre(generator: np.random.Generator, settings: PolicySettings) -> Act:
    """The best answer, read from the picture."""

    def act(step: int, frame: np.ndarray) -> np.ndarray:
        columns = np.flatnonzero(frame[32, :, 0] > 128)
        x = 2 * columns[0] / (FRAME_SHAPE[1] - BLOCK) - 1
        return np.clip(np.array([-1.08 * x / 0.1], np.float32), -1, 1)

    return act


TASK = Task(
    name="probe",
    action_size=1,
    max_steps=MAX_STEPS,
    backends={"probe": Probe},
    frame=lambda observation: observation,
    environment_action=lambda action: action,
    policies={"random": uniform, "held": held, "right": right, "centre": centre},
)
