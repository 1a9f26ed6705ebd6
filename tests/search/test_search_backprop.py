from dataclasses import dataclass, replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dream_probe import Line, Push, line_starts, recordings, vision_memory

from wm_jax.actors import protocol as actors
from wm_jax.actors.cem import CEMConfig
from wm_jax.actors.mlp import MLP
from wm_jax.actors.policy import PolicyConfig
from wm_jax.dream import Dream, DreamConfig
from wm_jax.errors import UserError
from wm_jax.experiment import Experiment
from wm_jax.memory import MemoryConfig
from wm_jax.models import Models
from wm_jax.pipeline.searching import actual_search
from wm_jax.search import SEARCHES, Dreams
from wm_jax.search.actor_critic import LAMBDA, lambda_returns
from wm_jax.search.backprop import BackpropConfig
from wm_jax.search.config import EvolveConfig
from wm_jax.worlds import Actor, WorldModel

pytestmark = pytest.mark.usefixtures("quick_compilation")


@dataclass(frozen=True)
class Steep(Line):
    """A line beyond whose place 1 neither where the point is nor the slope of that is finite."""

    def imagine(self, params, state, action, noise, temperature):
        after, outcome = super().imagine(params, state, action, noise, temperature)
        return replace(after, z=after.z + 0 * jnp.sqrt(1 - after.z)), outcome


# Gradients are longer than they may be, so that each is scaled down.
CONFIG = BackpropConfig(dreams=16, horizon=6, length=30, discount=0.9, learning_rate=3e-2, clip=1e-3)
CONTROLLER = MLP(("z",), (1, 4, 1))
LINE = Line(push=0.2)
WALLED = Steep(push=0.2, wall=4.0)
"""Whose dreams end by chance."""
RULES = DreamConfig(temperature=1.0, reward="predicted", end="drawn")
GENERATIONS = 60
STARTS = 7
LEFT = tuple(np.linspace(-2.5, -1.3, STARTS).tolist())
"""Places from where no action leads, in a few steps, to the other side of 0, where the reward's slope is another one."""


def new_key():
    return jax.random.key(2)


def search(line: WorldModel = WALLED, controller: Actor = CONTROLLER, config=CONFIG):
    return config.build(controller, Dream(line, RULES), GENERATIONS)


@cache
def table():
    """So many states of a line, anywhere."""
    return line_starts(LINE, (1,) * STARTS)


def starting(places=LEFT):
    """What dreams of a line are played with that begin at these places [STARTS]."""
    return Dreams({}, replace(table(), z=jnp.asarray(places, jnp.float32)[:, None]), jnp.float32(1))


@partial(jax.jit, static_argnames="gradient")
def first(gradient, dreams):
    """Its first state."""
    return gradient.init(new_key(), None, dreams.starts)


@partial(jax.jit, static_argnames="gradient")
def begun(gradient, dreams):
    """The same with networks that already do something, and dreams that are all at their first step."""
    state = first(gradient, dreams)
    networks = jax.tree.map(lambda leaf: leaf + 0.3, state.networks)
    return replace(state, networks=networks, dreams=gradient.begin(dreams.starts, jax.random.key(5)))


@partial(jax.jit, static_argnames=("gradient", "count"))
def iterate(gradient, state, dreams, first, key, count):
    return gradient.iterate(state, dreams, first, key, count)


@partial(jax.jit, static_argnames="gradient")
def slope(gradient, controller, state, dreams, key):
    """The objective and what comes with it, and its gradient."""
    found = jax.value_and_grad(gradient.objective, has_aux=True)
    return found(controller, state.networks["critic"], state.dreams, dreams, key)


def require_exact(gradient, state, dreams, size=1e-2):
    """That the gradient is the slope of the objective."""
    controller = state.networks["controller"]
    center = np.asarray(actors.flat(controller))
    expected = np.zeros_like(center)
    for number, step in enumerate(size * np.eye(len(center), dtype=np.float32)):
        sides = (actors.unflat(controller, center + sign * step) for sign in (1, -1))
        above, below = (float(slope(gradient, side, state, dreams, new_key())[0][0]) for side in sides)
        expected[number] = (above - below) / (2 * size)
    found = actors.flat(slope(gradient, controller, state, dreams, new_key())[1])
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=5e-3 * np.abs(expected).max())


@pytest.mark.parametrize(("drawn", "line"), [(False, LINE), (False, WALLED), (True, WALLED)])
def test_the_gradient_is_that_of_what_the_dreams_of_a_line_bring(drawn, line):
    """Also of how probable it is that they go on, where they end by chance; and through actions that are drawn."""
    policy = PolicyConfig(features=("z",), hidden_sizes=(3,)).build(Dream(line, RULES))
    gradient = search(line, policy if drawn else CONTROLLER)
    dreams = starting()
    state = begun(gradient, dreams)
    require_exact(gradient, state, dreams)
    (_, (after, *_, ending)), _ = slope(gradient, state.networks["controller"], state, dreams, new_key())
    assert (ending > 0.1).any() == (line == WALLED) == (after.steps < CONFIG.horizon).any()


def test_the_expectation_over_components_has_an_exact_gradient_through_V_and_M():
    memory = MemoryConfig(hidden_size=4, mixtures=2, predict_reward=True, predict_done=True)
    model = vision_memory(memory, 2, 1)
    gradient = search(model, MLP(("z", "h"), (6, 1)), replace(CONFIG, component="expectation", dreams=4))
    assert gradient.dream.model == replace(model, component="expectation")
    # Of larger weights than fresh ones have, so that the components differ.
    params = {"memory": jax.tree.map(lambda leaf: 2 * leaf, model.memory.init(jax.random.key(3)))}
    seen = jax.tree.map(lambda array: array.astype(jnp.float32), recordings((3,), 2).encoded)
    starts = jax.vmap(model.begin, (None, 0, 0))(params, seen, jax.random.split(jax.random.key(4), 3))
    dreams = Dreams(params, starts, jnp.float32(1.2))
    require_exact(gradient, begun(gradient, dreams), dreams)


def test_lambda_returns_are_the_mean_of_returns_of_all_lengths():
    """Equation 6 of Dreamer, written out: of n steps and what the critic says after them, weighed by lambda^(n - 1).
    Nothing is counted across the end of a dream; what the critic says after a certain end may be anything."""
    generator = np.random.default_rng(0)
    reward, value = generator.normal(size=(2, 6, 2))
    ending, left = generator.uniform(0, 0.5, size=(6, 2)), np.zeros((6, 2), bool)
    left[2, 0] = left[3, 1] = True
    ending[3, 1] = 1
    expected = np.zeros((6, 2))
    for lane in range(2):
        for t in range(6):
            last = next((later for later in range(t, 6) if left[later, lane]), 5)
            earned, survival = 0.0, 1.0
            for later in range(t, last + 1):
                earned += survival * reward[later, lane]
                survival *= 0.9 * (1 - ending[later, lane])
                share = LAMBDA ** (later - t) * (1 if later == last else 1 - LAMBDA)
                expected[t, lane] += share * (earned + survival * value[later, lane])
    value[3, 1] = np.nan
    reward, value, ending = map(jnp.asarray, (reward, value, ending))
    found = lambda_returns(reward, value, ending, jnp.asarray(left), 0.9)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_gradient_that_is_cut_at_a_step_does_not_see_what_earlier_actions_lead_to():
    """What a step of a line brings, and whether it is the end, is told by where the point is before the action; and this
    critic knows nothing."""
    dreams = starting()
    sizes = {}
    for truncation in (0, 1, 2):
        gradient = search(config=replace(CONFIG, truncation=truncation))
        state = begun(gradient, dreams)
        unknowing = jax.tree.map(jnp.zeros_like, state.networks["critic"])
        state = replace(state, networks={**state.networks, "critic": unknowing})
        found = slope(gradient, state.networks["controller"], state, dreams, new_key())[1]
        sizes[truncation] = np.abs(actors.flat(found)).max()
    assert sizes[0] > sizes[2] > 0 == sizes[1]


def test_the_best_controller_of_the_line_is_found():
    """It goes to 0 and stays there."""
    gradient, dreams = search(), starting(np.linspace(-1.5, 0.8, STARTS).tolist())
    state, outcome = first(gradient, dreams), []
    for number in range(0, GENERATIONS, 2):
        state, metrics = iterate(gradient, state, dreams, number, new_key(), 2)
        outcome.append(metrics["outcome"].mean())
    assert np.mean(outcome[-3:]) > 0.7 > outcome[0] + 0.1
    z = jnp.asarray([[-1.5], [-0.3], [0.8]], jnp.float32)
    for _ in range(30):
        z += LINE.push * jnp.tanh(CONTROLLER.outputs(gradient.candidate(state), z))
    assert jnp.abs(z).max() < 0.1


def test_the_metrics_are_the_norm_of_the_gradient_and_the_means_of_what_came():
    """Of the gradient before it is scaled down."""
    gradient, dreams = search(), starting()
    state = begun(gradient, dreams)
    _, metrics = iterate(gradient, state, dreams, 7, new_key(), 2)
    key = jax.random.split(jax.random.fold_in(new_key(), 7))[0]
    (value, (*_, ending)), found = slope(gradient, state.networks["controller"], state, dreams, key)
    norm = np.linalg.norm(actors.flat(found))
    np.testing.assert_allclose(metrics["gradient"][0], norm, rtol=1e-4)
    np.testing.assert_allclose(metrics["outcome"][0], -value, rtol=1e-4)
    np.testing.assert_allclose(metrics["ended"][0], ending.mean(), rtol=1e-4)
    assert norm > 10 * CONFIG.clip and metrics["non_finite"].tolist() == [0, 0]


def test_a_search_that_goes_on_ends_as_one_that_never_stopped():
    gradient, dreams = search(), starting()
    state = first(gradient, dreams)
    whole, metrics = iterate(gradient, state, dreams, 0, new_key(), 2)
    stored = jax.tree.map(lambda array: jnp.asarray(np.asarray(array)), whole)
    whole, more = iterate(gradient, whole, dreams, 2, new_key(), 2)
    again, same = iterate(gradient, stored, dreams, 2, new_key(), 2)
    jax.tree.map(np.testing.assert_array_equal, (whole, more), (again, same))
    assert metrics["ended"].shape == (2,) and 0 < metrics["ended"][0] < 1
    # What a generation draws follows from its number.
    other, _ = iterate(gradient, stored, dreams, 3, new_key(), 2)
    assert not np.array_equal(gradient.candidate(other)[0].kernel, gradient.candidate(whole)[0].kernel)


def test_a_generation_that_breaks_teaches_nothing_and_is_counted():
    """All of two generations' dreams begin where they break, and then those that take their places where they do not."""
    gradient, there, here = search(), starting((1.5,) * STARTS), starting()
    warm, _ = iterate(gradient, begun(gradient, here), here, 0, new_key(), 2)
    state = warm.replace(dreams=begun(gradient, there).dreams)
    broken, metrics = iterate(gradient, state, there, 2, new_key(), 2)
    assert metrics["non_finite"].tolist() == [1, 1]
    jax.tree.map(np.testing.assert_array_equal, broken.networks, state.networks)
    jax.tree.map(np.testing.assert_array_equal, broken.optimizer, state.optimizer)
    mended, metrics = iterate(gradient, broken, here, 4, new_key(), 2)
    assert metrics["non_finite"].tolist() == [1, 0]
    for name, before in state.networks.items():
        moved = actors.flat(mended.networks[name]) - actors.flat(before)
        assert jnp.isfinite(moved).all() and moved.any(), name


def test_what_is_told_of_a_generation_that_breaks_is_finite():
    """One metric that is not would stop a run of one search (`pipeline.loop`)."""
    gradient, dreams = search(), starting((*LEFT[1:], 1.5))
    _, metrics = iterate(gradient, begun(gradient, dreams), dreams, 0, new_key(), 2)
    assert metrics["non_finite"].any()
    assert {name: bool(np.isfinite(values).all()) for name, values in metrics.items()} == dict.fromkeys(metrics, True)


def test_what_cannot_be_learned_is_refused():
    dream = Dream(LINE, RULES)
    with pytest.raises(UserError, match=r"search\.kind backprop .* kind mlp, or policy without .*, found its weight;"):
        CONFIG.build(Push(), dream, 1)
    with pytest.raises(UserError, match=r"search\.kind backprop .* found cem in plans"):
        CONFIG.build(CEMConfig().build(dream), dream, 1)
    assert SEARCHES["backprop"] is BackpropConfig


def test_a_return_without_a_gradient_is_refused():
    """The number of steps before a threshold is passed; with drawn ends, or predicted rewards, there is a gradient."""
    for reward, end in (("survival", "drawn"), ("predicted", "threshold")):
        CONFIG.build(CONTROLLER, Dream(LINE, replace(RULES, reward=reward, end=end)), 1)
    with pytest.raises(
        UserError, match=r"dream\.reward is 'survival' and dream\.end is 'threshold'.* set dream\.end to"
    ):
        CONFIG.build(CONTROLLER, Dream(LINE, replace(RULES, reward="survival", end="threshold")), 1)


def test_a_policy_over_discrete_actions_is_refused():
    """No gradient goes through the choice of one."""
    dream = Dream(LINE, RULES, ((-1.0,), (0.0,), (1.0,)))
    policy = PolicyConfig(features=("z",), hidden_sizes=(3,), distribution="categorical").build(dream)
    with pytest.raises(UserError, match="categorical"):
        CONFIG.build(policy, dream, 1)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"horizon": 0}, r"search\.horizon must be between 1"),
        ({"truncation": 16}, r"search\.truncation must be between 0 and 15, found 16"),
        ({"truncation": -1}, r"search\.truncation must be between 0"),
        ({"component": "expected"}, r"search\.component must be one of .* did you mean 'expectation'"),
        ({"clip": 0.0}, r"search\.clip must be"),
        ({"dreams": 0}, r"search\.dreams must be"),
        ({"length": 0}, r"search\.length must be"),
        ({"start": "last"}, r"search\.start must be one of first, anywhere"),
        ({"discount": 1.1}, r"search\.discount must be"),
        ({"learning_rate": 0.0}, r"search\.learning_rate must be"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, says):
    with pytest.raises(UserError, match=says):
        BackpropConfig(**settings)


def test_it_learns_in_dreams_alone():
    experiment = Experiment(search=CONFIG, dream=RULES, evolve=EvolveConfig(fitness="actual", select="actual"))
    with pytest.raises(UserError, match=r"search\.kind is 'backprop'.*evolve\.fitness to 'dream'.*'cma_es'"):
        actual_search(Models(experiment), experiment.evolve, False)
