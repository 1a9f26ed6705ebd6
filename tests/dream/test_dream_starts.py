import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from dream_probe import Line, recordings, vision_memory

from wm_jax.dream import Dream, DreamConfig, start_states
from wm_jax.dream.starts import FIRSTS, SPACING
from wm_jax.memory import MemoryConfig

pytestmark = pytest.mark.usefixtures("quick_compilation")

LENGTHS = (10, 100, 40)
ANYWHERE = Dream(Line(), DreamConfig(start="anywhere"))


def new_key():
    return jax.random.key(4)


def frames_of(states):
    """Which frames of `recordings` the states stand on."""
    return np.rint(np.asarray(states.z)[:, 0] * 16).astype(int)


def test_first_is_on_every_recorded_first_frame_alike_with_nothing_before_it():
    states = start_states(Dream(Line(), DreamConfig()), {}, recordings(LENGTHS), new_key())
    frames, counts = np.unique(frames_of(states), return_counts=True)
    np.testing.assert_array_equal(frames, [0, 10, 110])
    assert counts.sum() == FIRSTS and np.ptp(counts) <= 1
    for nothing in (states.h, states.c, states.age):
        assert not nothing.any()


@pytest.mark.parametrize("start", ["first", "anywhere"])
def test_what_is_seen_of_a_frame_is_sampled_from_its_posterior(start):
    """Each row draws for itself."""
    dream = Dream(Line(latent_size=2), DreamConfig(start=start))
    recorded = recordings((1,) if start == "first" else (1000,), latent_size=2, log_var=2 * np.log(0.5))
    states = start_states(dream, {}, recorded, new_key())
    rows = len(states.z)
    mean = np.zeros((rows, 1)) if start == "first" else np.asarray(states.age)[:, None] / 16
    assert scipy.stats.kstest(np.ravel(states.z - mean), scipy.stats.norm(0, 0.5).cdf).pvalue > 0.01
    assert len(np.unique(states.z - mean, axis=0)) == rows


def test_anywhere_has_what_the_model_has_after_all_that_came_before():
    """Frame n is n / 16 and its action -n / 16; the line's h and c are the last place and action before."""
    states = start_states(ANYWHERE, {}, recordings(LENGTHS), new_key())
    frames = frames_of(states)
    begin = np.cumsum((0, *LENGTHS[:-1]))
    age = frames - begin[np.searchsorted(begin, frames, side="right") - 1]
    np.testing.assert_array_equal(states.age, age)
    later = age > 0
    np.testing.assert_allclose(states.h[later, 0] * 16, frames[later] - 1, atol=0.01)
    np.testing.assert_allclose(states.c[later, 0] * 16, 1 - frames[later], atol=0.01)
    assert not states.h[~later].any() and not states.c[~later].any()


def test_the_papers_model_has_what_following_the_episode_step_by_step_leaves_there():
    world = vision_memory(MemoryConfig(hidden_size=5, restart_input=True), 2, 1)
    params = {"memory": world.memory.init(new_key())}
    lengths = (3, 20, 50)
    recorded = recordings(lengths, latent_size=2, log_var=-40.0)
    states = start_states(Dream(world, DreamConfig(start="anywhere")), params, recorded, new_key())
    frames = frames_of(states)
    assert len(np.unique(frames)) == len(frames) >= 5
    observe = jax.jit(world.observe)
    for first, length in zip(np.cumsum((0, *lengths[:-1])), lengths, strict=True):
        state = None
        for frame in range(first, first + length):
            obs = jax.tree.map(lambda array, frame=frame: array[frame], recorded.encoded)
            before = recorded.action[frame - 1]
            state = (
                world.begin(params, obs, new_key()) if state is None else observe(params, state, before, obs, new_key())
            )
            for row in np.flatnonzero(frames == frame):
                found = jax.tree.map(lambda array, row=row: array[row], states)
                jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, state)


def test_rows_of_an_episode_are_evenly_spaced_and_every_frame_is_as_likely_to_be_one():
    recorded, firsts = recordings(LENGTHS), []
    for number in range(320):
        frames = np.sort(frames_of(start_states(ANYWHERE, {}, recorded, jax.random.fold_in(new_key(), number))))
        for begin, length in zip(np.cumsum((0, *LENGTHS[:-1])), LENGTHS, strict=True):
            own = frames[(frames >= begin) & (frames < begin + length)] - begin
            np.testing.assert_array_equal(own, np.arange(own[0], length, SPACING))
            firsts.append((length, own[0]))
    for length in LENGTHS:
        counts = np.bincount([first for whose, first in firsts if whose == length], minlength=min(SPACING, length))
        assert len(counts) == min(SPACING, length)
        assert scipy.stats.chisquare(counts).pvalue > 0.01


def test_as_many_random_episodes_are_followed_as_the_settings_say():
    dream = Dream(Line(), DreamConfig(start="anywhere", episodes=2))
    chosen = set()
    for number in range(20):
        frames = frames_of(start_states(dream, {}, recordings((5, 5, 5, 5)), jax.random.fold_in(new_key(), number)))
        assert len(frames) == len({frame // 5 for frame in frames}) == 2
        chosen.update(frame // 5 for frame in frames)
    assert chosen == {0, 1, 2, 3}


@pytest.mark.parametrize("length", [1, 2])
def test_the_shortest_recordings_have_a_state_to_start_in(length):
    for number in range(5):
        states = start_states(ANYWHERE, {}, recordings((length,)), jax.random.fold_in(new_key(), number))
        assert len(states.z) and (frames_of(states) < length).all()


def test_a_reset_picks_a_row_and_all_are_as_likely():
    states = start_states(ANYWHERE, {}, recordings(LENGTHS), new_key())
    dream = jax.jit(jax.vmap(ANYWHERE.reset, (None, 0)))(states, jax.random.split(new_key(), 2000))
    rows = np.argmax(np.asarray(dream.world.z) == np.asarray(states.z)[:, 0], axis=1)
    jax.tree.map(lambda found, table: np.testing.assert_array_equal(found, table[rows]), dream.world, states)
    assert scipy.stats.chisquare(np.bincount(rows, minlength=len(states.z))).pvalue > 0.01
    assert not dream.steps.any() and not dream.earned.any()


def test_following_traces_nothing_anew_for_other_weights_and_recordings():
    traces = []

    class Counted(Line):
        def observe(self, params, state, action, obs, key):
            traces.append(None)
            return super().observe(params, state, action, obs, key)

    counts = []
    for number in range(3):
        dream = Dream(Counted(), DreamConfig(start="anywhere"))
        recorded = recordings((30, 20), log_var=-20.0 - number)
        start_states(dream, {"scale": jnp.float32(number)}, recorded, jax.random.key(number))
        counts.append(len(traces))
    assert counts == counts[:1] * 3
