"""EnvPool's Car Racing beside Gymnasium's: other tracks for the same seed, but the same car, rewards and look.

Every track begins with the same stretch of straight road, so that what happens there can be compared as it is.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wm_jax.rollouts.collect import play
from wm_jax.rollouts.lanes import TaskEnv
from wm_jax.rollouts.limits import Limits
from wm_jax.tasks import load_task
from wm_jax.vision import Vision, VisionConfig

pytest.importorskip("envpool")

TASK = load_task("car_racing")
BACKENDS = ("gymnasium", "envpool")
PER_TILE = 1000
"""A tile earns this divided by the number of the track's tiles; so do all of them together."""


@dataclass(frozen=True)
class Drive:
    """What a backend shows of one track."""

    rewards: np.ndarray
    straight: np.ndarray
    """Observation after 50 steps of full gas."""
    off_road: np.ndarray
    """After 30 more with the wheel turned: the car stands on the grass."""
    steps_to_the_edge: int
    """Of another drive: straight on until the field ends."""
    end: tuple[float, bool, bool]
    """Of that one: (last reward, terminated, truncated)."""


@pytest.fixture(scope="module")
def drives() -> dict[str, Drive]:
    return {backend: driven(backend) for backend in BACKENDS}


@pytest.fixture(params=BACKENDS)
def drive(request: pytest.FixtureRequest, drives: dict[str, Drive]) -> Drive:
    return drives[request.param]


def driven(backend: str, seed: int = 3) -> Drive:
    environment = TASK.make(backend)
    environment.reset(seed=seed)
    first = [environment.step(np.array([0, 1, 0], np.float32)) for _ in range(50)]
    then = [environment.step(np.array([0.3, 1, 0], np.float32)) for _ in range(30)]
    environment.reset(seed=seed)
    steps, reward, terminated, truncated = 0, 0.0, False, False
    while not (terminated or truncated):
        gas = 0.6 if steps < 150 else 0.1
        _, reward, terminated, truncated, _ = environment.step(np.array([0, gas, 0], np.float32))
        steps += 1
    return Drive(
        rewards=np.array([reward for _, reward, *_ in first]), straight=first[-1][0].copy(), off_road=then[-1][0].copy(),
        steps_to_the_edge=steps, end=(float(reward), bool(terminated), bool(truncated)),
    )  # fmt: skip


def test_a_step_costs_a_tenth_and_a_tile_earns_its_share(drive: Drive) -> None:
    earned = drive.rewards + 0.1
    tile = earned[earned > 1e-4].min()
    tiles = PER_TILE / tile
    assert tiles == pytest.approx(round(tiles), abs=0.02) and 200 < tiles < 400
    np.testing.assert_allclose(earned / tile, np.round(earned / tile), atol=1e-3)
    # The distance that full gas covers in a second: the car's dynamics.
    assert round(earned.sum() / tile) == 9


def test_the_field_has_the_same_edge(drive: Drive) -> None:
    """Half a hundredth of the way there is what rounding makes of two seconds in which the gears slip."""
    assert abs(drive.steps_to_the_edge - 267) <= 4
    assert drive.end == (pytest.approx(-100), True, False)


def test_the_dashboard_begins_at_the_same_row(drive: Drive) -> None:
    right = drive.straight[:, 90].astype(int)
    assert (right[84:] == 0).all() and (right[:84, 1] > 150).all()


@pytest.fixture
def frames(drives: dict[str, Drive]) -> np.ndarray:
    """[backend, straight or off the road, 64, 64, 3]"""
    return np.stack([[TASK.frame(drive.straight), TASK.frame(drive.off_road)] for drive in drives.values()])


def test_frames_have_the_same_colours(frames: np.ndarray) -> None:
    pixels = frames.astype(float)
    np.testing.assert_allclose(pixels[0].mean((1, 2)), pixels[1].mean((1, 2)), atol=5)
    # Grass beside the car, and the road before it, of the frame on the straight.
    for place in ((slice(58, 64), slice(0, 8)), (slice(40, 46), slice(28, 36))):
        ours, theirs = (pixels[backend, 0][place].mean((0, 1)) for backend in range(2))
        np.testing.assert_allclose(ours, theirs, atol=12)


def test_V_sees_both_alike(frames: np.ndarray) -> None:
    """Even an untrained one: the same moment of both is nearer than two moments of one."""
    vision = Vision(VisionConfig(width=8))
    mean = vision.encode(vision.init(jax.random.key(0)), jnp.asarray(frames.reshape(-1, 64, 64, 3))).mean
    z = np.asarray(mean).reshape(2, 2, -1)
    apart = np.linalg.norm(z[0] - z[1], axis=-1)
    moments = np.linalg.norm(z[:, 0] - z[:, 1], axis=-1)
    assert apart.max() < moments.min() / 2


def test_drives_end_after_a_thousand_steps() -> None:
    standing = TaskEnv(TASK, TASK.make("envpool"))
    standing.reset(0)
    ends = [standing.step(np.array([0, -1, 0], np.float32))[1:] for _ in range(TASK.max_steps)]
    assert [end[1:] for end in ends] == [(False, False)] * (TASK.max_steps - 1) + [(False, True)]
    assert sum(end[0] for end in ends[1:]) == pytest.approx(-0.1 * (TASK.max_steps - 1), abs=0.01)


def test_a_pool_plays_what_one_track_at_a_time_plays() -> None:
    """Whatever its place in the pool, a track follows from its seed."""
    seeds, policy = [11, 12, 11], TASK.policy("smooth_walk")
    pool = TASK.pools["envpool"](seeds)
    pool.reset(np.array([2, 1], np.int32))
    single = TaskEnv(TASK, TASK.make("envpool"), Limits(40))
    episode = play(single, policy, 11)
    seen = np.zeros(0)
    for step, action in enumerate(episode.actions):
        taken = TASK.environment_action(action)
        pool.send(np.stack([taken, taken]), np.array([2, 1], np.int32))
        seen, rewards, *_ = pool.recv()
        assert rewards[0] == np.float32(episode.rewards[step])
        if step + 1 < len(episode.frames):
            np.testing.assert_array_equal(TASK.frame(seen[0]), episode.frames[step + 1])
    assert not np.array_equal(seen[0], seen[1])
