"""Car Racing: steer, gas and brake around a random track, seen from above. Solved at a mean return of 900 (paper,
section 3).

The dashboard below row 84 of 96 is cut off, then the view is averaged to 64×64. M receives C's tanh values; the
environment receives steer = t0, gas = (t1 + 1) / 2, brake = clip(t2, 0, 1), as in the authors' released code.
"""

import warnings
from collections.abc import Sequence

import gymnasium
import numpy as np

from wm_jax.extras import need
from wm_jax.tasks.task import Act, PolicySettings, Task, resize

MAX_STEPS = 1000
VIEW_ROWS = 84


def frame(observation: np.ndarray) -> np.ndarray:
    """uint8 [96, 96, 3] → uint8 [64, 64, 3]."""
    return resize(observation[:VIEW_ROWS])


def environment_action(action: np.ndarray) -> np.ndarray:
    """[3] in [-1, 1] → steer in [-1, 1], gas and brake in [0, 1], float32."""
    steer, gas, brake = action
    return np.array([steer, (gas + 1) / 2, np.clip(brake, 0, 1)], np.float32)


def _gymnasium() -> gymnasium.Env:
    """CarRacing-v3 from Gymnasium: the reference."""
    need("Box2D", "car")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return gymnasium.make("CarRacing-v3", disable_env_checker=True)


class EnvPoolTracks:
    """EnvPool's CarRacing-v3 as a `Pool` of tracks, one for each seed. It accepts seeds only when it is built.

    About ten times as fast as the reference. Not anti-aliased; the same seed gives another track.
    """

    def __init__(self, seeds: Sequence[int]):
        self.envs = need("envpool", "envpool").make_gymnasium(
            "CarRacing-v3", num_envs=len(seeds), env_seed=list(seeds), max_episode_steps=MAX_STEPS
        )

    def reset(self, episodes: np.ndarray) -> np.ndarray:
        """Start these tracks [n]; returns their first observations [n, 96, 96, 3]."""
        return self.envs.reset(episodes)[0]

    def send(self, actions: np.ndarray, episodes: np.ndarray) -> None:
        """Advance these tracks [n] by a fiftieth of a second with `actions` [n, 3]; returns at once."""
        self.envs.send(actions, episodes)

    def recv(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The results: (observations [n, 96, 96, 3], rewards [n], terminated [n], truncated [n])."""
        return self.envs.recv()[:4]


class EnvPoolCarRacing(gymnasium.Env):
    """EnvPool's tracks, one at a time, as a Gymnasium environment."""

    observation_space = gymnasium.spaces.Box(0, 255, (96, 96, 3), np.uint8)
    action_space = gymnasium.spaces.Box(np.array([-1, 0, 0], np.float32), np.array([1, 1, 1], np.float32))

    def __init__(self) -> None:
        # Report a missing package now, not when the first track starts.
        self.tracks = EnvPoolTracks([0])

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        """Start a track."""
        super().reset(seed=seed)
        self.tracks = EnvPoolTracks([int(self.np_random.integers(2**31 - 1)) if seed is None else seed])
        return self.tracks.reset(np.zeros(1, np.int32))[0], {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Advance by a fiftieth of a second."""
        self.tracks.send(action[None], np.zeros(1, np.int32))
        observation, reward, terminated, truncated = self.tracks.recv()
        return observation[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), {}


def smooth_walk(generator: np.random.Generator, settings: PolicySettings) -> Act:
    """A random walk of each output, with inertia and a bias drawn once for each episode: it turns, coasts and seldom
    brakes."""
    bias = np.array([generator.normal(0, 0.15), generator.uniform(-0.6, 0.6), generator.uniform(-1.2, -0.3)])
    walk = np.zeros(3)

    def act(step: int, frame: np.ndarray) -> np.ndarray:
        nonlocal walk
        walk = 0.85 * walk + generator.normal(0, [0.25, 0.25, 0.2])
        return np.tanh(walk + bias).astype(np.float32)

    return act


def random_network(generator: np.random.Generator, settings: PolicySettings) -> Act:
    """As in the authors' released code, an untrained linear network drives; its weights are Cauchy × U(0, 1) · 0.01,
    drawn for each episode.

    Theirs reads an untrained V and M; this one reads the frame averaged to 8×8.
    """
    features = 8 * 8 * 3
    weights = 0.01 * generator.uniform() * generator.standard_cauchy((3, features))
    bias = 0.01 * generator.uniform() * generator.standard_cauchy(3)

    def act(step: int, frame: np.ndarray) -> np.ndarray:
        blocks = frame.reshape(8, 8, 8, 8, 3).mean((1, 3)) / 255
        return np.tanh(weights @ blocks.ravel() + bias).astype(np.float32)

    return act


def uniform(generator: np.random.Generator, settings: PolicySettings) -> Act:
    """The random policy of the score tables: each step draws from the environment's whole action space."""

    def act(step: int, frame: np.ndarray) -> np.ndarray:
        steer, gas, brake = generator.uniform([-1, 0, 0], [1, 1, 1])
        return np.array([steer, 2 * gas - 1, brake], np.float32)

    return act


TASK = Task(
    name="car_racing",
    action_size=3,
    max_steps=MAX_STEPS,
    backends={"gymnasium": _gymnasium, "envpool": EnvPoolCarRacing},
    frame=frame,
    environment_action=environment_action,
    pools={"envpool": EnvPoolTracks},
    policies={"smooth_walk": smooth_walk, "random_network": random_network, "random": uniform},
    # Gymnasium's discrete actions: coast, right, left, gas, brake.
    actions=((0.0, -1.0, 0.0), (0.6, -1.0, 0.0), (-0.6, -1.0, 0.0), (0.0, -0.6, 0.0), (0.0, -1.0, 0.8)),
    reward_range=(-0.1, 8.0),
    mirror=(-1.0, 1.0, 1.0),
    # Coast, steer, and half gas: full gas spins the car.
    controls={
        "rest": (0.0, -1.0, 0.0),
        "left": (-1.0, -1.0, 0.0),
        "right": (1.0, -1.0, 0.0),
        "up": (0.0, 0.0, 0.0),
        "down": (0.0, -1.0, 0.8),
    },
    typical_length=1000,
    typical_frame_bytes=2400,
)
