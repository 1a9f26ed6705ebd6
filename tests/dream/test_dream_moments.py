import jax
import numpy as np
from dream_probe import Line, recordings

from wm_jax.dream import Dream, DreamConfig, moments
from wm_jax.dream.moments import SPACING

KEY = jax.random.key(4)
LENGTHS = (10, 100, 40)


def test_a_moment_has_what_M_was_fed_up_to_there():
    """Frame n is n / 16 and its action -n / 16; the probe's h and c hold the last z and action that it was fed."""
    dream = Dream(Line(), DreamConfig(start="anywhere"))
    found = moments(dream, {}, recordings(LENGTHS), KEY, 3)
    frames = np.rint(np.asarray(found.z)[:, 0] * 16).astype(int)
    first = np.isin(frames, np.cumsum((0, *LENGTHS[:-1])))
    np.testing.assert_array_equal(np.asarray(found.restart) == 1, first)
    np.testing.assert_allclose(found.memory.h[~first, 0] * 16, frames[~first] - 1, atol=0.01)
    np.testing.assert_allclose(found.memory.c[~first, 0] * 16, 1 - frames[~first], atol=0.01)
    assert not np.asarray(found.steps).any() and not np.asarray(found.earned).any()


def test_moments_of_an_episode_are_evenly_spaced_and_every_frame_can_be_one():
    dream = Dream(Line(), DreamConfig(start="anywhere"))
    seen = set()
    for number in range(200):
        found = moments(dream, {}, recordings(LENGTHS), jax.random.fold_in(KEY, number), 3)
        frames = np.sort(np.rint(np.asarray(found.z)[:, 0] * 16).astype(int))
        for begin, length in zip(np.cumsum((0, *LENGTHS[:-1])), LENGTHS, strict=True):
            own = frames[(frames >= begin) & (frames < begin + length)]
            assert length // SPACING <= len(own) <= -(-length // SPACING)
            assert (np.diff(own) == SPACING).all()
        seen.update(frames.tolist())
    assert seen == set(range(150))
