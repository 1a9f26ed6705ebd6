"""What a model foresees of a recorded episode, on a world that can be worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dream_probe import Line

from wm_jax.data import observations
from wm_jax.vision import LatentStats
from wm_jax.worlds.forecast import BURN_IN, DREAMS, forecasts, places

pytestmark = pytest.mark.usefixtures("quick_compilation")

LENGTHS = (40, 12, 60)


def recorded(spread: float = 0.0):
    """A point that the recorded actions move by a 32nd each, in every episode from 0 on; V is certain of it."""
    rng = np.random.default_rng(0)
    action = rng.choice([-1.0, 1.0], size=(sum(LENGTHS), 1))
    ends = np.cumsum(LENGTHS)
    z = np.concatenate([np.cumsum(part, axis=0) - part for part in np.split(action / 32, ends[:-1])])
    encoded = LatentStats(jnp.asarray(z, jnp.float32), jnp.full(z.shape, -30.0, jnp.float32))
    reward = 1 - np.abs(z[:, 0])
    found = observations.build(encoded, action, reward, np.asarray(LENGTHS), np.zeros(3, bool))
    return found, z[:, 0]


def test_places_have_room_for_the_forecast_and_lie_in_one_episode() -> None:
    start, length = np.array([0, 40, 52]), np.array(LENGTHS)
    np.testing.assert_array_equal(places(start, length, 10, 64), [0, 52])
    np.testing.assert_array_equal(places(start, length, 5, 64), [0, 52, 77])
    np.testing.assert_array_equal(places(start, length, 5, 2), [0, 77])
    assert len(places(start, length, 60, 64)) == 0


def test_a_model_that_is_right_foresees_everything() -> None:
    data, z = recorded()
    line = Line(push=1 / 32, spread=0.0)
    begins = places(np.asarray(data.start), np.asarray(data.length), 15, 64)
    drawn, earned = forecasts(line, {}, data, begins, (1, 5, 15), jax.random.key(0))
    assert drawn.shape == (3, len(begins), 64, 64, 3)
    for row, horizon in enumerate((1, 5, 15)):
        at = begins + BURN_IN
        expected = np.clip((1 + z[at + horizon]) / 2, 0, 1)
        np.testing.assert_allclose(drawn[row, :, 0, 0, 0], expected, atol=2e-3)
        came = [np.asarray(data.reward)[first : first + horizon].sum() for first in at]
        np.testing.assert_allclose(earned[row], came, rtol=1e-3, atol=1e-4)


def test_a_model_that_draws_is_told_by_the_mean_of_its_dreams() -> None:
    """Which has a spread of its own, less by the root of their number."""
    data, z = recorded()
    line = Line(push=1 / 32, spread=0.05)
    begins = np.zeros(200, np.int32)
    drawn, _ = forecasts(line, {}, data, begins, (4,), jax.random.key(0))
    found = 2 * drawn[0, :, 0, 0, 0] - 1
    # All places meet the same noise, so that they agree; against what came they are off by as much as a mean is.
    assert np.ptp(found) < 1e-3
    assert abs(found[0] - z[BURN_IN + 4]) < 5 * 0.05 * 2 / DREAMS**0.5
