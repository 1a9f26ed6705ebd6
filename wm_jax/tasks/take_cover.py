"""Take Cover: dodge the fireballs of a growing row of monsters; one point a tic survived (paper, section 4).

Solved at a mean of 750 tics over 100 episodes. The game runs at 160×120 without a status bar; rows 10 to 110 are, pixel
for pixel, what the game shows above its status bar, which the authors cut off.
"""

import contextlib
import os
import tempfile
import threading

import gymnasium
import numpy as np

from wm_jax.errors import UserError
from wm_jax.tasks.task import Act, PolicySettings, Task, resize

MAX_STEPS = 2100
VIEW_ROWS = slice(10, 110)
STAY, RIGHT, LEFT = 0, 1, 2
"""The environment's actions."""

_WORKING_DIRECTORY = threading.Lock()


def frame(observation: dict[str, np.ndarray]) -> np.ndarray:
    """uint8 [120, 160, 3] under "screen" → uint8 [64, 64, 3]."""
    return resize(observation["screen"][VIEW_ROWS])


def environment_action(action: np.ndarray) -> int:
    """[1]: below -1/3 left, above 1/3 right, else stay."""
    return LEFT if action[0] < -1 / 3 else RIGHT if action[0] > 1 / 3 else STAY


class _LeavesNoFiles(gymnasium.Wrapper):
    """The game makes a folder where it is started: let that be one that is thrown away."""

    _started = False

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        if self._started:
            return self.env.reset(seed=seed, options=options)
        with _WORKING_DIRECTORY, tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            self._started = True
            return self.env.reset(seed=seed, options=options)


def _vizdoom(timeout: int = MAX_STEPS) -> gymnasium.Env:
    """ViZDoom's Take Cover at skill 4; at the timeout it reports both terminated and truncated."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    try:
        import vizdoom.gymnasium_wrapper  # registers the environment
    except ImportError as error:
        raise UserError(f"Take Cover needs ViZDoom, which cannot be imported ({error}): pip install vizdoom") from error
    environment = gymnasium.make(
        "VizdoomTakeCover-v1",
        disable_env_checker=True,
        doom_skill=4,
        episode_timeout=timeout,
        screen_resolution="RES_160X120",
        screen_format="RGB24",
        doom_config_path=os.devnull,
    )
    return _LeavesNoFiles(environment)


def _constant(value: float) -> Act:
    action = np.array([value], np.float32)
    return lambda step, frame: action


def held(generator: np.random.Generator, settings: PolicySettings) -> Act:
    """U(-1, 1), each value held for U{1..n} tics, n drawn from `settings.max_holds` once an episode (paper: 10)."""
    longest = generator.choice(settings.max_holds)
    action, until = np.zeros(1, np.float32), 0

    def act(step: int, frame: np.ndarray) -> np.ndarray:
        nonlocal action, until
        if step == until:
            action = generator.uniform(-1, 1, 1).astype(np.float32)
            until += generator.integers(1, longest, endpoint=True)
        return action

    return act


def uniform(generator: np.random.Generator, settings: PolicySettings) -> Act:
    """The random policy of the score tables: U(-1, 1) anew each tic."""
    return lambda step, frame: generator.uniform(-1, 1, 1).astype(np.float32)


def sweep(generator: np.random.Generator, settings: PolicySettings) -> Act:
    """Right and left in turn, never looking: the baseline that a learned policy must beat."""
    actions = np.array([[1.0], [-1.0]], np.float32)
    return lambda step, frame: actions[step // settings.sweep_steps % 2]


TASK = Task(
    name="take_cover",
    action_size=1,
    max_steps=MAX_STEPS,
    backends={"vizdoom": _vizdoom},
    frame=frame,
    environment_action=environment_action,
    policies={
        "held": held,
        "random": uniform,
        "stay": lambda generator, settings: _constant(0.0),
        "left": lambda generator, settings: _constant(-1.0),
        "right": lambda generator, settings: _constant(1.0),
        "sweep": sweep,
    },
)
