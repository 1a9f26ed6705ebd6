"""Take Cover: dodge the fireballs of a growing row of monsters; one point for each tic survived (paper, section 4).

Solved at a mean of 750 tics over 100 episodes. The game runs at 160×120 without a status bar. Rows 10 to 110 are, pixel
for pixel, what the game shows above its status bar, which the authors cut off.
"""

import contextlib
import itertools
import os
import tempfile
import threading
import traceback
from collections.abc import Callable
from typing import Any, SupportsFloat

import gymnasium
import numpy as np

from wm_jax.extras import need
from wm_jax.tasks.calls import GameDied
from wm_jax.tasks.task import Act, PolicySettings, Task, resize

MAX_STEPS = 2100
SCREEN_SHAPE = (120, 160, 4)
VIEW_ROWS = slice(10, 110)
STAY, RIGHT, LEFT = 0, 1, 2
"""The environment's actions."""
STRAY_CHANCE = 0.15
"""Probability that `wander` draws U(-1, 1) instead of taking the next side."""

_WORKING_DIRECTORY = threading.Lock()


def frame(observation: np.ndarray) -> np.ndarray:
    """uint8 [120, 160, 4] → uint8 [64, 64, 3]."""
    return resize(observation[VIEW_ROWS])


def environment_action(action: np.ndarray) -> int:
    """[1]: below -1/3 left, above 1/3 right, else stay."""
    return LEFT if action[0] < -1 / 3 else RIGHT if action[0] > 1 / 3 else STAY


class TakeCover(gymnasium.Wrapper):
    """ViZDoom's environment with its screen, uint8 [120, 160, 4], as the whole observation. It leaves no files behind.

    Raises `GameDied` if the game, a separate process, has ended.
    """

    def __init__(self, environment: gymnasium.Env, game: Any, ended: tuple[type[Exception], ...]):
        """`ended`: the exceptions that ViZDoom raises if the game has ended."""
        super().__init__(environment)
        self._ended = ended
        self.observation_space = gymnasium.spaces.Box(0, 255, SCREEN_SHAPE, np.uint8)
        self._game = game

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        """Start an episode. The first one starts the game, which writes to its working folder: a temporary one."""
        if self._game.is_running():
            observation, _ = self._call(self.env.reset, seed=seed, options=options)
        else:
            with _WORKING_DIRECTORY, tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
                observation, _ = self._call(self.env.reset, seed=seed, options=options)
        return observation["screen"], {}

    def step(self, action: int) -> tuple[np.ndarray, SupportsFloat, bool, bool, dict]:
        """One tic. At an episode's end the game has no screen: zeros. The timeout is truncation, not termination."""
        observation, reward, terminated, truncated, _ = self._call(self.env.step, action)
        if terminated:
            return np.zeros(SCREEN_SHAPE, np.uint8), reward, not truncated, truncated, {}
        return observation["screen"], reward, terminated, truncated, {}

    def _call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except self._ended as error:
            raise GameDied(f"the game has ended ({error})", traceback.format_exc()) from error


def make(timeout: int = MAX_STEPS) -> gymnasium.Env:
    """Take Cover at skill 4, cut off after `timeout` tics."""
    vizdoom = need("vizdoom", "doom")
    need("vizdoom.gymnasium_wrapper", "doom")  # registers the environment
    environment = gymnasium.make(
        "VizdoomTakeCover-v1",
        disable_env_checker=True,
        doom_skill=4,
        episode_timeout=timeout,
        screen_resolution="RES_160X120",
        doom_config_path=os.devnull,
    )
    game = environment.get_wrapper_attr("game")
    # ViZDoom's environment supports three channels only; `resize` is fast with four.
    game.set_screen_format(vizdoom.ScreenFormat.RGBA32)
    ended = (vizdoom.ViZDoomErrorException, vizdoom.ViZDoomUnexpectedExitException)
    return TakeCover(environment.unwrapped, game, ended)


def _constant(value: float) -> Act:
    action = np.array([value], np.float32)
    return lambda step, frame: action


def _hold(draw: Callable[[], float], generator: np.random.Generator, settings: PolicySettings) -> Act:
    """Each drawn action for U{1..n} tics; n is drawn from `settings.max_holds` once for each episode."""
    longest = generator.choice(settings.max_holds)
    action, until = np.zeros(1, np.float32), 0

    def act(step: int, frame: np.ndarray) -> np.ndarray:
        nonlocal action, until
        if step == until:
            action = np.array([draw()], np.float32)
            until += generator.integers(1, longest, endpoint=True)
        return action

    return act


def held(generator: np.random.Generator, settings: PolicySettings) -> Act:
    """U(-1, 1), held (in the paper for at most 10 tics)."""
    return _hold(lambda: generator.uniform(-1, 1), generator, settings)


def wander(generator: np.random.Generator, settings: PolicySettings) -> Act:
    """Right and left alternately, held; sometimes U(-1, 1) instead. It survives longer than `held`, and turns anywhere:
    M sees late tics, and the results of turning into a fireball and away from it."""
    sides = itertools.cycle([1.0, -1.0] if generator.random() < 0.5 else [-1.0, 1.0])

    def draw() -> float:
        side = next(sides)
        return generator.uniform(-1, 1) if generator.random() < STRAY_CHANCE else side

    return _hold(draw, generator, settings)


def uniform(generator: np.random.Generator, settings: PolicySettings) -> Act:
    """The random policy of the score tables: U(-1, 1) at each tic."""
    return lambda step, frame: generator.uniform(-1, 1, 1).astype(np.float32)


def sweep(generator: np.random.Generator, settings: PolicySettings) -> Act:
    """Right and left alternately, without looking: the baseline that a learned policy must beat."""
    actions = np.array([[1.0], [-1.0]], np.float32)
    return lambda step, frame: actions[step // settings.sweep_steps % 2]


TASK = Task(
    name="take_cover",
    action_size=1,
    max_steps=MAX_STEPS,
    backends={"vizdoom": make},
    frame=frame,
    environment_action=environment_action,
    policies={
        "held": held,
        "random": uniform,
        "stay": lambda generator, settings: _constant(0.0),
        "left": lambda generator, settings: _constant(-1.0),
        "right": lambda generator, settings: _constant(1.0),
        "sweep": sweep,
        "wander": wander,
    },
    actions=((0.0,), (1.0,), (-1.0,)),
    mirror=(-1.0,),
    frames_per_second=35,
    typical_length=308,
    typical_frame_bytes=4510,
)
