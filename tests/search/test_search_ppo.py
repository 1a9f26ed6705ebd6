from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dream_probe import Breaking, Line, Push, line_starts, recordings
from jax.scipy.stats import norm

from wm_jax.actors import protocol as actors
from wm_jax.actors.icem import ICEMConfig
from wm_jax.actors.mcts import MCTSConfig
from wm_jax.actors.mlp import MLP, Layer, MLPConfig
from wm_jax.actors.policy import PolicyConfig
from wm_jax.dream import Dream, DreamConfig, start_states
from wm_jax.errors import UserError
from wm_jax.experiment import Experiment
from wm_jax.models import Models
from wm_jax.pipeline.searching import actual_search
from wm_jax.search import SEARCHES, Dreams, EpisodeSearch, PopulationSearch
from wm_jax.search.actor_critic import LAMBDA, advantages, falling_adam
from wm_jax.search.config import EvolveConfig
from wm_jax.search.decisions import Decisions
from wm_jax.search.policy_gradient import PolicyGradientConfig
from wm_jax.search.ppo import PPOConfig
from wm_jax.search.protocol import Experience

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIG = PolicyGradientConfig(dreams=64, decisions=8, hold=3, length=30, noise=0.5, discount=0.9, learning_rate=1e-2)
CONTROLLER = MLP(("z",), (1, 8, 1))


def new_key():
    return jax.random.key(2)


def search(config=CONFIG, controller=CONTROLLER, steps=60, push=0.5, wall=float("inf"), spread=0.01):
    dream = Dream(Line(push, spread, wall), DreamConfig(temperature=1.0, reward="predicted", start=config.start))
    return config.build(controller, dream, steps)


def begun(gradient, begin=None):
    """What its dreams are played with, and its first state."""
    starts = start_states(gradient.dream, {}, recordings((20, 30)), new_key())
    return Dreams({}, starts, jnp.float32(1)), gradient.init(new_key(), begin, starts)


def at(gradient, z):
    """What dreams are played with, and dreams [L] that stand at `z` [L]."""
    table = line_starts(gradient.dream.model, (1,))
    dreams = jax.vmap(gradient.dream.reset, (None, 0))(table, jax.random.split(new_key(), len(z)))
    return Dreams({}, table, jnp.float32(1)), replace(
        dreams, world=replace(dreams.world, z=jnp.asarray(z, jnp.float32)[:, None])
    )


def test_advantages_are_the_discounted_sums_of_what_the_critic_did_not_expect():
    """Equation 16 of the paper on generalised advantages, written out; nothing is counted across the end of a dream."""
    generator = np.random.default_rng(0)
    reward, value, following = generator.normal(size=(3, 6, 2))
    survival, left = generator.uniform(size=(6, 2)), np.zeros((6, 2), bool)
    left[2, 0] = left[3, 1] = True
    expected = np.zeros((6, 2))
    for lane in range(2):
        for t in range(6):
            for later in range(t, 6):
                ahead = survival[later, lane] * following[later, lane]
                error = reward[later, lane] + 0.9 * ahead - value[later, lane]
                expected[t, lane] += (0.9 * LAMBDA) ** (later - t) * error
                if left[later, lane]:
                    break
    reward, value, following = map(jnp.asarray, (reward, value, following))
    found = advantages(reward, value, following, jnp.asarray(survival), jnp.asarray(left), 0.9)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("learn_from", ["probability", "ends"])
def test_an_action_is_told_what_it_risks_or_what_was_drawn(learn_from):
    """A point that stays where it is, beyond a wall, ends with the same probability p in each step."""
    dream = Dream(Line(push=0.0, spread=1e-6, wall=2.0, done_weight=10.0), DreamConfig(end="drawn"))
    gradient = replace(CONFIG, learn_from=learn_from).build(CONTROLLER, dream, 1)
    count = 4000
    _, earned, survival, over = gradient._keep(
        *at(gradient, np.ones(count)), jnp.zeros((count, 1), jnp.float32), new_key()
    )
    p = 1 / (1 + 10 * np.e)
    steps, lives = np.arange(CONFIG.hold), (1 - p) ** CONFIG.hold
    expected = 0.1 * ((1 - p) ** steps * 0.9**steps).sum()
    if learn_from == "probability":
        np.testing.assert_allclose(survival, lives, rtol=1e-5)
        np.testing.assert_allclose(earned, expected, rtol=1e-5)
    else:
        np.testing.assert_array_equal(survival, 1 - over)
        np.testing.assert_allclose(earned.mean(), expected, atol=4 * earned.std() / count**0.5)
        assert len(np.unique(np.round(earned, 6))) == CONFIG.hold
    np.testing.assert_allclose(1 - over.mean(), lives, atol=4 * (lives * (1 - lives) / count) ** 0.5)


def test_the_noise_falls_by_the_same_share_in_each_generation():
    gradient = search(PolicyGradientConfig(noise=2.0, final_noise=0.5), steps=11)
    noise = np.asarray([gradient.config.noise_in(generation, 11) for generation in range(11)])
    np.testing.assert_allclose(noise[[0, -1]], (2.0, 0.5), rtol=1e-6)
    np.testing.assert_allclose(noise[1:] / noise[:-1], 0.25**0.1, rtol=1e-5)


def decisions(generator, controller, weights, count=50):
    inputs = jnp.asarray(generator.normal(size=(count, 1)), jnp.float32)
    center = controller.outputs(weights, inputs)
    drawn = center + CONFIG.noise * jnp.asarray(generator.normal(size=center.shape), jnp.float32)
    likelihood = norm.logpdf(drawn, center, CONFIG.noise).sum(axis=-1)
    noise, nothing = jnp.full(count, CONFIG.noise, jnp.float32), jnp.zeros(count, jnp.float32)
    advantage = jnp.asarray(generator.normal(size=count))
    return center, Decisions(inputs, drawn, noise, likelihood, advantage, nothing, nothing + 1)


def test_the_first_step_follows_the_gradient_of_the_expected_return():
    """Where C is still what it was while playing, PPO's gradient is REINFORCE's: E[advantage * grad log p(x)]."""
    linear = MLP(("z",), (1, 1), bias=False)
    gradient = search(PolicyGradientConfig(noise=CONFIG.noise, entropy=0.0), linear)
    weights = (Layer(jnp.asarray([[0.7]], jnp.float32), None),)
    _, state = begun(gradient, weights)
    center, played = decisions(np.random.default_rng(1), linear, weights)
    found = jax.grad(gradient.loss)(state.networks, played)["controller"][0].kernel
    scores = (played.drawn - center)[:, 0] / CONFIG.noise**2 * played.inputs[:, 0]
    np.testing.assert_allclose(found, [[-(played.advantage * scores).mean()]], rtol=1e-4)


def slopes(gradient, networks, played):
    """The gradients of C's weights."""
    return jax.tree.leaves(jax.grad(gradient.loss)(networks, played)["controller"])


def test_what_has_become_far_more_or_less_likely_is_not_followed_further():
    """The clipped objective has no slope where the ratio is beyond 1.2 and the advantage positive, nor where it is below
    0.8 and the advantage negative."""
    gradient = search(PolicyGradientConfig(noise=CONFIG.noise, entropy=0.0))
    _, state = begun(gradient)
    _, played = decisions(np.random.default_rng(1), CONTROLLER, state.networks["controller"])
    rare = replace(played, log_likelihood=played.log_likelihood - 1, advantage=jnp.abs(played.advantage))
    often = replace(played, log_likelihood=played.log_likelihood + 1, advantage=-jnp.abs(played.advantage))
    assert not any(slope.any() for each in (rare, often) for slope in slopes(gradient, state.networks, each))
    assert all(slope.any() for slope in slopes(gradient, state.networks, played))


def test_the_scale_and_the_mean_of_the_advantages_do_not_matter():
    gradient = search()
    _, state = begun(gradient)
    played = decisions(np.random.default_rng(1), CONTROLLER, state.networks["controller"])[1]
    played = jax.tree.map(lambda leaf: leaf[None], played)
    learn = jax.jit(lambda advantage: gradient._learn(state, replace(played, advantage=advantage), new_key())[0])
    after, other = (actors.flat(learn(advantage)) for advantage in (played.advantage, 5 * played.advantage + 3))
    np.testing.assert_allclose(after, other, rtol=1e-4, atol=1e-6)
    assert not np.allclose(after, actors.flat(state.networks), atol=1e-3)


def test_outcomes_in_dreams_are_discounted_by_the_steps_that_an_action_is_held():
    """A point that stays at 0.4 brings 0.6 at each step; this critic always says 0.7."""
    gradient = search(spread=0.0, push=0.0)
    dreams, state = begun(gradient)
    critic = jax.tree.map(jnp.zeros_like, state.networks["critic"])
    critic = (*critic[:-1], replace(critic[-1], bias=jnp.full(1, 0.7, jnp.float32)))
    state = replace(state, networks={**state.networks, "critic": critic}, dreams=at(gradient, np.full(64, 0.4))[1])
    _, played, _ = jax.jit(gradient._play)(state, dreams, jnp.float32(0.5), new_key())
    earned, rate, advantage, expected = 0.6 * (1 - 0.9**3), 0.9**3, 0.0, []
    for _ in range(CONFIG.decisions):
        advantage = earned + rate * 0.7 - 0.7 + rate * LAMBDA * advantage
        expected.insert(0, advantage + 0.7)
    np.testing.assert_allclose(played.outcome, np.repeat(np.array(expected)[:, None], 64, axis=1), rtol=1e-4)


def test_adams_steps_fall_to_a_tenth_and_do_not_follow_a_single_large_gradient():
    def steps(gradients):
        optimizer = falling_adam(0.1, 10, 1.0)
        state, found = optimizer.init(jnp.zeros(1, jnp.float32)), []
        for gradient in gradients:
            step, state = optimizer.update(jnp.full(1, gradient, jnp.float32), state)
            found.append(jnp.asarray(step)[0])
        return found

    # Adam's step along a gradient that never changes is its learning rate.
    np.testing.assert_allclose(steps([0.5] * 11), -np.linspace(0.1, 0.01, 11), rtol=1e-4)
    np.testing.assert_allclose(steps([100.0, 1.0, 0.2]), steps([1.0, 1.0, 0.2]), rtol=1e-4)


def test_entropy_draws_C_back_from_certain_actions():
    """d/du E[log(1 - tanh(x)^2)] = -2 E[tanh(x)], found here through the last bias."""
    gradient = search(PolicyGradientConfig(noise=CONFIG.noise, entropy=1.0))
    _, state = begun(gradient)
    first, last = state.networks["controller"]
    weights = (first, replace(last, bias=jnp.full(1, 20.0, jnp.float32)))
    _, played = decisions(np.random.default_rng(1), CONTROLLER, weights)
    still = replace(played, advantage=jnp.zeros(50, jnp.float32))
    found = jax.grad(gradient.loss)({**state.networks, "controller": weights}, still)["controller"]
    np.testing.assert_allclose(found[-1].bias, [2.0], rtol=1e-4)


def test_an_action_is_kept_and_what_follows_an_end_does_not_count():
    """On the line z moves by push * action a step; beyond the wall the dream ends, that step's reward included."""
    gradient = search(PolicyGradientConfig(hold=4, discount=0.9), wall=1.2, spread=1e-6)
    here = at(gradient, np.zeros(2))
    after, earned, _, over = gradient._keep(*here, jnp.asarray([[0.2], [1.0]], jnp.float32), new_key())
    np.testing.assert_allclose(after.world.z[0], 0.4, atol=1e-3)
    assert over.tolist() == [False, True]
    slow = sum(0.1 * 0.9**k * (1 - 0.1 * k) for k in range(4))
    # z = 0, 0.5, 1, 1.5: the step from 1.5 is the first from beyond the wall.
    fast = sum(0.1 * 0.9**k * (1 - 0.5 * k) for k in range(4))
    np.testing.assert_allclose(earned, [slow, fast], rtol=1e-3, atol=1e-4)
    longer = search(PolicyGradientConfig(hold=6, discount=0.9), wall=1.2, spread=1e-6)
    np.testing.assert_allclose(
        longer._keep(*here, jnp.ones((2, 1), jnp.float32), new_key())[1], fast, rtol=1e-3, atol=1e-4
    )


def test_full_return_ends_its_dreams():
    dream = Dream(Line(), DreamConfig(full_return=2.5))
    for hold in (3, 5):
        gradient = replace(CONFIG, hold=hold).build(CONTROLLER, dream, 1)
        _, earned, survival, over = gradient._keep(
            *at(gradient, np.zeros(2)), jnp.zeros((2, 1), jnp.float32), new_key()
        )
        np.testing.assert_allclose(earned, 0.1 * (1 + 0.9 + 0.81), rtol=1e-5)
        assert not survival.any() and over.all()


def test_no_dream_outlives_the_horizon():
    gradient = CONFIG.build(CONTROLLER, Dream(Line(), DreamConfig(horizon=10)), 3)
    dreams, state = begun(gradient)
    later, _ = gradient.iterate(state, dreams, 0, new_key(), 1)
    # A decision is kept for 3 steps.
    assert state.dreams.steps.max() == 7 and later.dreams.steps.max() <= 7
    with pytest.raises(UserError, match=r"search\.hold must be between 1 and 2, found 3"):
        CONFIG.build(CONTROLLER, Dream(Line(), DreamConfig(horizon=2)), 1)


def test_dreams_that_break_are_counted_and_C_learns_to_keep_away_from_there():
    """Each step earns the same, so that nothing else tells one place from another."""
    gradient = CONFIG.build(CONTROLLER, Dream(Breaking(push=0.3), DreamConfig(temperature=1.0)), 40)
    dreams, state = begun(gradient)
    state, metrics = gradient.iterate(state, dreams, 0, new_key(), 40)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state.networks, state.dreams, metrics)))
    assert metrics["non_finite"][:5].mean() > 20 and metrics["non_finite"][-5:].mean() < 5


def test_what_breaks_a_dream_is_worth_the_least():
    """As an end that earns nothing; and where what else is decided is worth less than that, as the worst of it."""
    dream = Dream(Breaking(push=1e-6, spread=1e-6, part="reward"), DreamConfig(reward="predicted"))
    gradient = replace(CONFIG, dreams=2, decisions=4).build(CONTROLLER, dream, 1)
    play = jax.jit(gradient._play)
    for place, worst in ((0.0, 0.0), (-9.0, 0.271 * -8)):
        dreams, here = at(gradient, np.array([place, 1.5]))
        networks = gradient.init(new_key(), None, dreams.starts).networks
        unknowing = {**networks, "critic": jax.tree.map(jnp.zeros_like, networks["critic"])}
        state = replace(gradient.init(new_key(), None, dreams.starts), networks=unknowing, dreams=here)
        _, played, ends = play(state, dreams, jnp.float32(0.5), new_key())
        # The dream that takes the place of the broken one begins at 0.
        assert ends["non_finite"] == 1 and np.isfinite(played.advantage).all()
        np.testing.assert_allclose(played.outcome[0, 1], worst, rtol=1e-4)


def test_the_best_controller_of_the_line_is_found():
    """It goes to 0 and stays: a reward near 1 a step."""
    gradient = search(push=0.2)
    dreams, state = begun(gradient)
    state, metrics = gradient.iterate(state, dreams, 0, new_key(), 60)
    assert metrics["outcome"][-5:].mean() > 0.7 > metrics["outcome"][:2].mean() + 0.1
    sides = jnp.asarray([[-1.0], [1.0]], jnp.float32)
    left, right = jnp.tanh(CONTROLLER.outputs(gradient.candidate(state), sides))[:, 0]
    assert left > 0.5 and right < -0.5


def test_a_search_that_goes_on_ends_as_one_that_never_stopped_and_compiles_nothing_anew():
    gradient = search(wall=1.5)
    dreams, state = begun(gradient)
    traces = []

    def count_traces(*arguments, count):
        traces.append(None)
        return gradient.iterate(*arguments, count=count)

    run = jax.jit(count_traces, static_argnames="count")
    whole, metrics = run(state, dreams, 0, new_key(), count=2)
    whole, more = run(whole, dreams, 2, new_key(), count=2)
    again, _ = run(state, dreams, 0, new_key(), count=2)
    stored = jax.tree.map(lambda array: jnp.asarray(np.asarray(array)), again)
    again, same = run(stored, dreams, 2, new_key(), count=2)
    jax.tree.map(np.testing.assert_array_equal, (whole, more), (again, same))
    assert metrics["ended"].shape == (2,) and 0 < metrics["ended"][0] < 1
    assert len(traces) == 1
    # What a generation draws, and its noise, follow from its number.
    other, _ = run(stored, dreams, 3, new_key(), count=2)
    assert not np.array_equal(gradient.candidate(other)[0].kernel, gradient.candidate(whole)[0].kernel)


def test_it_goes_on_from_a_controller_that_there_is():
    weights = CONTROLLER.init(jax.random.key(9))
    _, state = begun(search(), weights)
    jax.tree.map(np.testing.assert_array_equal, search().candidate(state), weights)


def test_its_dreams_are_left_at_different_times_and_begin_in_states_of_the_table():
    dreams, state = begun(search())
    steps = np.asarray(state.dreams.steps)
    assert steps.min() >= 0 and steps.max() < CONFIG.length and len(np.unique(steps)) > 15
    assert np.isin(state.dreams.world.z, dreams.starts.z).all()


def test_what_cannot_be_searched_is_refused():
    with pytest.raises(UserError, match=r"search\.kind policy_gradient .* actor of kind mlp, found its weight;"):
        CONFIG.build(Push(), search().dream, 1)
    with pytest.raises(UserError, match=r"search\.hold"):
        PolicyGradientConfig(hold=0)
    with pytest.raises(UserError, match=r"search\.dreams is 2 and search\.decisions is 3.*search\.batches, 8"):
        PolicyGradientConfig(dreams=2, decisions=3)
    assert SEARCHES["policy_gradient"] is PolicyGradientConfig


def test_it_also_learns_in_the_actual_environment():
    experiment = Experiment(search=CONFIG, evolve=EvolveConfig(fitness="actual", select="actual"))
    found = actual_search(Models(experiment), experiment.evolve, False)
    assert isinstance(found, EpisodeSearch) and not isinstance(found, PopulationSearch)
    assert found.episodes == CONFIG.dreams and found.player.hold == CONFIG.hold


ACTIONS = ((-1.0,), (0.0,), (1.0,))
PPO = PPOConfig(dreams=64, decisions=8, hold=3, length=30, learning_rate=1e-2)


def in_dream(actor, config=PPO):
    """The search for an actor, as it is set, in a dream with discrete actions."""
    dream = Dream(Line(push=0.2), DreamConfig(temperature=1.0, reward="predicted", start=config.start), ACTIONS)
    return config.build(actor.build(dream), dream, 40)


@pytest.mark.parametrize("distribution", ["gaussian", "beta", "categorical"])
def test_the_best_policy_of_the_line_is_found(distribution):
    """As the best controller, by a policy that tells itself how much its actions differ."""
    policy = PolicyConfig(features=("z",), hidden_sizes=(8,), distribution=distribution)
    gradient = in_dream(policy, replace(PPO, discount=0.9))
    dreams, state = begun(gradient)
    state, metrics = gradient.iterate(state, dreams, 0, new_key(), 40)
    assert metrics["outcome"][-5:].mean() > 0.7 > metrics["outcome"][:2].mean() + 0.1
    sides = jnp.asarray([[-1.0], [1.0]], jnp.float32)
    left, right = gradient.policy.distribution(gradient.candidate(state), sides, 0.0).mode()[:, 0]
    assert left > 0.5 and right < -0.5


PLANNERS = [MCTSConfig(hidden_sizes=(8,)), ICEMConfig(hidden_sizes=(8,), discount=0.99)]


@pytest.mark.parametrize("planner", PLANNERS)
def test_of_a_planner_it_finds_the_policy_and_the_critic_and_goes_on_from_both(planner):
    gradient = in_dream(planner)
    weights = gradient.actor.init(jax.random.key(9))
    assert set(weights) == {"policy", "critic"}
    _, state = begun(gradient, weights)
    jax.tree.map(np.testing.assert_array_equal, gradient.candidate(state), weights)
    jax.tree.map(np.testing.assert_array_equal, state.networks["critic"], weights["critic"])
    _, fresh = begun(gradient)
    assert jax.tree.structure(gradient.candidate(fresh)) == jax.tree.structure(weights)
    assert not np.array_equal(actors.flat(gradient.candidate(fresh)), actors.flat(weights))


@pytest.mark.parametrize("planner", PLANNERS)
def test_a_value_of_another_discount_than_the_planners_is_refused(planner):
    with pytest.raises(UserError, match=r"search\.discount is 0\.98 but actor\.discount is 0\.99"):
        in_dream(planner, replace(PPO, discount=0.98))


def test_who_sets_the_noise_decides_which_actors_are_refused():
    policy = PolicyConfig(features=("z",), hidden_sizes=(8,))
    with pytest.raises(UserError, match=r"search\.kind ppo .* actor of kind policy, or a planner .* found z, linear;"):
        in_dream(MLPConfig(features=("z",)))
    with pytest.raises(UserError, match=r"search\.kind policy_gradient .* kind mlp, found z, hidden .* 8, gaussian;"):
        in_dream(policy, CONFIG)
    with pytest.raises(UserError, match=r"search\.kind ppo .* actor\.hidden_sizes, found icem in plans"):
        in_dream(ICEMConfig())
    with pytest.raises(UserError, match=r"actor\.distribution is 'categorical' but the task names no"):
        replace(policy, distribution="categorical").build(Dream(Line(), DreamConfig()))


STEPS, HOLD = 10, 2
LENGTHS, TERMINATED = (10, 7, 3, 1), (False, True, False, True)
EPISODES = PPOConfig(dreams=len(LENGTHS), hold=HOLD, batches=2, passes=1, discount=0.9)


def experience(generator):
    """Episodes of these lengths; the last decision of some is cut short."""
    shape = len(LENGTHS), STEPS // HOLD
    rewards = generator.normal(size=(len(LENGTHS), STEPS)) * (np.arange(STEPS) < np.array(LENGTHS)[:, None])
    inputs, drawn = (jnp.asarray(generator.normal(size=(*shape, 1)), jnp.float32) for _ in range(2))
    rewards = jnp.asarray(rewards.reshape(*shape, HOLD), jnp.float32)
    return Experience(inputs, drawn, rewards, jnp.asarray(LENGTHS, jnp.int32), jnp.asarray(TERMINATED))


@jax.jit
def learned(state, experience):
    return episodic().learn(state, experience, 1, new_key())


def episodic():
    """A search that learns from such episodes."""
    return in_dream(PolicyConfig(features=("z",), hidden_sizes=(8,)), EPISODES)


def test_what_stands_after_an_episodes_end_teaches_nothing():
    found = experience(np.random.default_rng(0))
    state = episodic().init(new_key())
    there = np.arange(STEPS // HOLD) * HOLD < np.array(LENGTHS)[:, None]
    after, metrics = learned(state, found)
    for changed in (there, ~there):
        others = [
            jnp.where(changed[..., None], array + 3 * jnp.cos(array), array) for array in (found.inputs, found.drawn)
        ]
        other, about = learned(state, replace(found, inputs=others[0], drawn=others[1]))
        same = bool((actors.flat(other.networks) == actors.flat(after.networks)).all())
        assert same == (changed is not there) == (metrics == about)
    assert not np.array_equal(actors.flat(after.networks), actors.flat(state.networks))


def test_what_follows_on_an_end_is_nothing_and_on_a_limit_what_the_critic_says():
    """Outcomes with a critic that always says 0.7, written out; what else is told are the mean return and the steps."""
    found, value, rate = experience(np.random.default_rng(0)), 0.7, 0.9**HOLD
    state = episodic().init(new_key())
    critic = jax.tree.map(jnp.zeros_like, state.networks["critic"])
    critic = (*critic[:-1], replace(critic[-1], bias=jnp.full(1, value, jnp.float32)))
    _, metrics = learned(replace(state, networks={**state.networks, "critic": critic}), found)
    outcomes = []
    for rewards, length, terminated in zip(np.asarray(found.reward), LENGTHS, TERMINATED, strict=True):
        advantage, following = 0.0, 0.0 if terminated else value
        for number in reversed(range(-(-length // HOLD))):
            earned = 0.1 * (rewards[number] * 0.9 ** np.arange(HOLD)).sum()
            advantage = earned + rate * following - value + rate * LAMBDA * advantage
            outcomes.append(advantage + value)
            following = value
    np.testing.assert_allclose(metrics["outcome"], np.mean(outcomes), rtol=1e-5)
    np.testing.assert_allclose(metrics["mean"], found.reward.sum() / len(LENGTHS), rtol=1e-5)
    assert metrics["steps"] == sum(LENGTHS)
