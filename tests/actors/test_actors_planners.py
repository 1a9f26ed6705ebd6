from dataclasses import dataclass, replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dream_probe import Breaking, Line, Point

from wm_jax.actors import protocol as actors
from wm_jax.actors.cem import CEMConfig, CEMPlan, _filter, coloured
from wm_jax.actors.icem import ICEMConfig
from wm_jax.actors.mcts import MCTSConfig, _Tree
from wm_jax.actors.mppi import MPPIConfig, moved
from wm_jax.dream import Dream, DreamConfig, DreamState
from wm_jax.dream.imagination import Imagination
from wm_jax.errors import UserError
from wm_jax.lanes import PLANNING
from wm_jax.worlds import World

pytestmark = pytest.mark.usefixtures("quick_compilation")

REWARDED = DreamConfig(temperature=1.0, reward="predicted")
ACTIONS = ((-1.0,), (0.0,), (1.0,))
SEQUENCES = {
    "cem": CEMConfig(horizon=8, iterations=4, candidates=100, elites=10),
    "icem": ICEMConfig(horizon=8, iterations=4, shrink=1.0),
    "mppi": MPPIConfig(horizon=8, iterations=4, temperature=0.02),
}
COUNTED = []


def new_key(number=0):
    return jax.random.key(number)


def at(z):
    """A point of the line at `z` [...]."""
    z = jnp.asarray(np.asarray(z, np.float32)[..., None])
    nothing = jnp.asarray(np.zeros(z.shape, np.float32))
    return Point(z, nothing, nothing, jnp.asarray(np.zeros(z.shape[:-1], np.int32)))


def sequences(*actions):
    """[N, T, 1]"""
    return jnp.asarray(np.asarray(actions, np.float32)[..., None])


def planner(config, line, rules=REWARDED):
    return config.build(Dream(line, rules, ACTIONS))


@cache
def decision(planner):
    return jax.jit(planner.decide)


def decide(planner, state, plan=None, key=0, params=None):
    """Its action, and the plan for the next decision."""
    plan = planner.first_plan() if plan is None else plan
    return decision(planner)(params or {}, World(planner.dream.model, {}), state, plan, new_key(key))


@cache
def returns(judge):
    return jax.jit(judge.returns, static_argnums=4)


def with_advantages(judge, place, plans, key=0, value=None):
    """What the plans bring from a place on, [N]."""
    return returns(judge)(World(judge.dream.model, {}), at(place), sequences(*plans), new_key(key), value)


@dataclass(frozen=True)
class Sure(Line):
    """A line without chance: its programs are compiled sooner."""

    def noise(self, key):
        return jnp.zeros(1, jnp.float32)


@dataclass(frozen=True)
class Counted(Line):
    """A line that tells of each step that is dreamt."""

    def imagine(self, params, state, action, noise, temperature):
        jax.debug.callback(lambda z: COUNTED.append(None), state.z)
        return super().imagine(params, state, action, noise, temperature)


@pytest.fixture
def counted():
    """Tells how many steps were dreamt since it was asked last."""

    def count():
        jax.effects_barrier()
        found = len(COUNTED)
        COUNTED.clear()
        return found

    COUNTED.clear()
    return count


@dataclass(frozen=True)
class Tempting(Breaking, Sure):
    """The further to the right, the higher the reward; beyond 1, it breaks."""

    def imagine(self, params, state, action, noise, temperature):
        after, outcome = super().imagine(params, state, action, noise, temperature)
        return after, replace(outcome, reward=state.z[0])


# Noise that has a colour


def test_noise_of_colour_0_is_white():
    np.testing.assert_allclose(_filter(7, 0.0), np.eye(7), atol=1e-6)
    white = jax.random.normal(new_key(), (3, 7, 2), jnp.float32)
    np.testing.assert_allclose(coloured(new_key(), (3, 7, 2), 0.0), white, atol=1e-5)


@pytest.mark.parametrize("colour", [0.0, 1.0, 3.0, 10.0])
def test_noise_has_variance_1_at_every_place_whatever_its_colour(colour):
    for length in (1, 2, 5, 30):
        np.testing.assert_allclose(np.linalg.norm(_filter(length, colour), axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("colour", [1.0, 3.0])
def test_the_power_of_noise_falls_with_the_frequency_to_the_power_of_its_colour(colour):
    count, length = 4000, 64
    noise = np.asarray(coloured(new_key(), (count, length, 1), colour), np.float64)[..., 0]
    power = (np.abs(np.fft.rfft(noise, axis=1)) ** 2).mean(axis=0)
    frequency = np.fft.rfftfreq(length)
    frequency[0] = frequency[1]
    shape = frequency**-colour
    # Of a real sequence all frequencies but the lowest and the highest stand for two. The sum is that of the variances.
    twice = np.array([1, *[2] * (length // 2 - 1), 1])
    expected = shape * length**2 / (twice * shape).sum()
    np.testing.assert_allclose(power / expected, 1, atol=4 * (2 / count) ** 0.5)


# Sequences of actions with_advantages in a dream


def worked_out(start, actions, hold=1, discount=1.0, wall=None, noise=None, value=None):
    """What a sequence brings on the line whose push is 0.5, step by step; `noise` [T * hold] moves it, too."""
    z, earned, weight = start, 0.0, 1.0
    for number, action in enumerate(np.repeat(actions, hold)):
        earned += weight * (1 - abs(z))
        weight *= discount * (1 if wall is None else 1 - 1 / (1 + np.exp(wall - abs(z))))
        z += 0.5 * action + (0 if noise is None else noise[number])
    return earned + (0 if value is None else weight * value(z))


PLANS = ((-1.0, -0.8, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0), (1.0, 0.5, -0.5, 1.0))


def value_of_line(state):
    return 3 - state.z[0]


@pytest.mark.parametrize(
    "hold, discount, wall, value",
    [(1, 1.0, None, None), (3, 1.0, None, value_of_line), (3, 0.9, 1.0, value_of_line)],
)
def test_returns_are_those_worked_out_by_hand(hold, discount, wall, value):
    """Rewards are discounted step by step, an end that is possible takes its share of all that follows, and the value of
    the last state counts like a reward there."""
    line = Line(spread=0.0, wall=float("inf") if wall is None else wall)
    rules = replace(REWARDED, end="threshold" if wall is None else "drawn")
    judge = Imagination(Dream(line, rules), hold, discount=discount)
    found = with_advantages(judge, 0.9, PLANS, value=value)
    of_place = None if value is None else lambda z: 3 - z
    expected = [worked_out(0.9, plan, hold, discount, wall, value=of_place) for plan in PLANS]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_an_end_that_is_more_probable_than_the_threshold_ends_a_sequence():
    """From 0 by 0.5 a step the point is beyond the wall after two; that step's reward still counts."""
    line = Line(spread=0.0, wall=0.9)
    found = with_advantages(Imagination(Dream(line, REWARDED)), 0.0, ((1.0,) * 5, (0.0,) * 5), value=value_of_line)
    np.testing.assert_allclose(found, [1 + 0.5 + 0, 5 + 3], rtol=1e-6)


def test_a_full_return_ends_no_sequence():
    dream = Dream(Line(spread=0.0), replace(REWARDED, full_return=2.0))
    np.testing.assert_allclose(with_advantages(Imagination(dream), 0.0, [(0.0,) * 6]), [6.0])


def test_all_sequences_meet_the_same_noise():
    judge = Imagination(Dream(Line(spread=0.3), REWARDED), particles=2)
    same, other = (with_advantages(judge, 0.0, [PLANS[0]] * 3, key) for key in range(2))
    assert len(np.unique(same)) == len(np.unique(other)) == 1 and not np.array_equal(same, other)


def test_a_return_is_the_mean_over_dreams_with_noise_of_their_own():
    line, particles = Line(spread=0.3), 3
    found = with_advantages(Imagination(Dream(line, REWARDED), 2, particles), 0.9, PLANS)

    @jax.jit
    @jax.vmap
    def draws(number):
        return jax.vmap(line.noise)(jax.random.split(jax.random.fold_in(new_key(), number), particles))

    noise = 0.3 * np.asarray(draws(jnp.arange(8, dtype=jnp.int32)))[..., 0].T
    assert len(np.unique(noise)) == 24
    expected = [np.mean([worked_out(0.9, plan, 2, noise=own) for own in noise]) for plan in PLANS]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("part", ["z", "end"])
def test_a_sequence_whose_dream_breaks_is_the_worst_there_is(part):
    """Only the last one goes beyond 1; it comes back in vain."""
    plans = (*PLANS[:2], (1.0, -1.0, -1.0, 0.0))
    judge = Imagination(Dream(Breaking(spread=0.0, part=part), REWARDED), particles=2)
    found = with_advantages(judge, 0.9, plans, value=value_of_line)
    expected = [worked_out(0.9, plan, value=lambda z: 3 - z) for plan in PLANS[:2]]
    np.testing.assert_allclose(found, [*expected, -np.inf], rtol=1e-5)


def test_it_is_so_however_little_the_rewards_still_count_when_it_breaks():
    """0.1 to the power of 59 is 0 in float32."""
    late, never = (*[0.0] * 59, 1.0), (0.0,) * 60
    judge = Imagination(Dream(Breaking(spread=0.0), REWARDED), discount=0.1)
    np.testing.assert_allclose(with_advantages(judge, 0.9, (late, never)), [-np.inf, 0.1 / 0.9], rtol=1e-5)


# Planners that compare sequences


@pytest.mark.parametrize("config", SEQUENCES.values(), ids=SEQUENCES)
def test_planners_go_home_at_full_speed(config):
    plans = planner(config, Sure(push=0.1))
    for place in (0.9, -0.9):
        action, _ = decide(plans, at(place))
        np.testing.assert_allclose(action, [-np.sign(place)], atol=0.3)


@pytest.mark.parametrize("config", SEQUENCES.values(), ids=SEQUENCES)
def test_planners_keep_away_from_where_their_dream_breaks(config):
    """As near as they are drawn to it: what breaks has no part in a mean, and a mean of plans that stay below 1 does so."""
    line = Tempting(push=0.2)
    plans = planner(config, line)

    @jax.jit
    def played(key):
        def step(carry, key):
            state, plan = carry
            action, plan = plans.act({}, World(line, {}), state, plan, key)
            state, _ = line.imagine({}, state, action, jnp.zeros(1, jnp.float32), 1.0)
            return (state, plan), state.z[0]

        return jax.lax.scan(step, (at(0.5), plans.begin()), jax.random.split(key, 12))[1]

    places = np.asarray(played(new_key()))
    assert (places <= 1).all() and places[-6:].mean() > 0.8


def test_dream_steps_are_those_of_a_decision(counted):
    """8 sequences, then 4, twice the elites, as 8 / 3 are less, and 1 that is kept each time: of 3 actions, for 2 steps, in
    2 dreams."""
    config = CEMConfig(horizon=3, hold=2, particles=2, iterations=2, candidates=8, shrink=3.0, elites=2, kept=0.5)
    plans = planner(config, Counted())
    decide(plans, at(0.5))
    assert counted() == plans.dream_steps == (8 + 4 + 1 + 1) * 3 * 2 * 2


def test_an_action_is_kept_for_as_many_steps_as_it_holds_and_then_decided_anew():
    """MPPI goes on with what it has planned, moved by one action; hardly anything is drawn, so that it is done as it is."""
    line = Sure()
    plans = planner(MPPIConfig(horizon=3, hold=3, candidates=8, deviation=1e-3), line)
    act, left, done = jax.jit(plans.act), [], []
    carry = replace(plans.begin(), plan=jnp.asarray([[0.3], [-0.5], [0.8]], jnp.float32))
    for number in range(7):
        # The place changes while an action is kept, and nothing comes of that.
        action, carry = act({}, World(line, {}), at(0.1 * number), carry, new_key(number))
        np.testing.assert_array_equal(action, carry.action)
        left.append(int(carry.left))
        done.append(action.item())
    np.testing.assert_allclose(done, [0.3, 0.3, 0.3, -0.5, -0.5, -0.5, 0.8], atol=1e-2)
    assert len(set(done)) == 3 and left == [2, 1, 0, 2, 1, 0, 2]
    np.testing.assert_allclose(carry.plan, np.zeros((3, 1)), atol=1e-2)


def test_a_decision_of_cem_is_the_one_written_out():
    """With all that its settings can change: kept elites, momentum, colour and what is done."""
    line, share = Sure(push=0.3), 0.25
    config = CEMConfig(
        horizon=4, iterations=2, candidates=12, elites=3, kept=0.7, momentum=share, warm_start=True, discount=0.9,
        colour=1.0, deviation=0.7, execute="best",
    )  # fmt: skip
    plans = planner(config, line)

    @jax.jit
    def draws():
        fit_key, last_key = jax.random.split(new_key())
        noise = [
            coloured(jax.random.split(jax.random.fold_in(fit_key, number))[0], (12, 4, 1), 1.0) for number in range(2)
        ]
        return noise, 0.7 * jax.random.normal(last_key, (2, 1), jnp.float32)

    noise, ends = draws()
    earned = jax.jit(lambda sequences: plans.returns({}, World(line, {}), at(0.9), sequences, new_key()))
    generator = np.random.default_rng(0)
    mean, kept = (generator.uniform(-1, 1, shape).astype(np.float32) for shape in ((4, 1), (2, 4, 1)))
    action, plan = decide(plans, at(0.9), CEMPlan(jnp.asarray(mean), jnp.asarray(kept)))
    deviation, elites = np.full_like(mean, 0.7), kept
    for number in range(2):
        drawn = np.clip(mean + deviation * np.asarray(noise[number]), -1, 1)
        if number == 1:
            # What is done may be the mean, too.
            drawn[0] = mean
        competing = np.concatenate([drawn, kept])
        elites = competing[np.argsort(-np.asarray(earned(competing)))[:3]]
        mean = share * mean + (1 - share) * elites.mean(axis=0)
        deviation = share * deviation + (1 - share) * elites.std(axis=0)
        kept = elites[:2]
    np.testing.assert_allclose(action, elites[0, 0], atol=1e-5)
    np.testing.assert_allclose(plan.mean, [*mean[1:], [0]], atol=1e-5)
    expected = np.concatenate([kept[:, 1:], np.clip(ends, -1, 1)[:, None]], axis=1)
    np.testing.assert_allclose(plan.kept, expected, atol=1e-5)


def test_a_warm_start_goes_on_with_the_mean_moved_by_one_action():
    """Hardly anything is drawn, so that a decision ends where it began."""
    plans = planner(CEMConfig(horizon=3, iterations=1, candidates=8, elites=2, deviation=1e-3, warm_start=True), Sure())
    carried = CEMPlan(jnp.asarray([[0.3], [-0.5], [0.8]], jnp.float32), plans.first_plan().kept)
    action, plan = decide(plans, at(0.0), carried)
    np.testing.assert_allclose(action, [0.3], atol=1e-2)
    np.testing.assert_allclose(plan.mean, [[-0.5], [0.8], [0]], atol=1e-2)


def test_for_a_cold_start_no_matter_what_was_planned():
    plans = planner(SEQUENCES["cem"], Sure(push=0.1))
    carried = replace(plans.first_plan(), mean=jnp.ones((8, 1), jnp.float32))
    jax.tree.map(np.testing.assert_array_equal, decide(plans, at(0.9), carried), decide(plans, at(0.9)))


def test_elites_of_a_decision_compete_in_the_next_one():
    """The only sequence that goes home, where what is drawn hardly moves."""
    plans = planner(ICEMConfig(horizon=3, shrink=1.0, deviation=1e-3), Sure())
    home = sequences((0.0, 0.0, 0.0), (-1.0, -0.8, 0.25), (1.0, 1.0, 1.0))
    action, plan = decide(plans, at(0.9), CEMPlan(jnp.zeros((3, 1), jnp.float32), home))
    np.testing.assert_allclose(action, [-1], atol=1e-6)
    np.testing.assert_allclose(plan.kept[0, :2], [[-0.8], [0.25]], atol=1e-6)


def test_mppi_moves_to_the_mean_weighted_by_what_sequences_bring():
    generator = np.random.default_rng(0)
    drawn, returns = generator.normal(size=(6, 4, 2)), 50 + generator.normal(size=6)
    returns[2] = -np.inf
    weights = np.exp(returns / 0.5)
    expected = (weights[:, None, None] * drawn).sum(axis=0) / weights.sum()
    plan = np.ones((4, 2), np.float32)
    found = jax.jit(moved)(plan, drawn.astype(np.float32), returns.astype(np.float32), 0.5)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_mppi_stays_where_it_is_while_all_that_it_draws_breaks():
    plan, drawn, returns = (np.full(*of, np.float32) for of in (((4, 2), 0.3), ((6, 4, 2), 1), (6, -np.inf)))
    found = jax.jit(moved)(plan, drawn, returns, 0.5)
    np.testing.assert_array_equal(found, plan)


# Lanes side by side


def lanes(plans, left, places):
    """What lanes are in and carry, that have so many steps left [L] of what they do, with plans of their own."""
    generator = np.random.default_rng(0)

    def own(leaf):
        return jnp.asarray(generator.uniform(-1, 1, (len(left), *leaf.shape)), jnp.float32)

    carry = jax.tree.map(own, plans.begin())
    return at(places), replace(carry, left=jnp.asarray(left, jnp.int32))


def test_lanes_decide_as_each_alone_also_at_different_moments():
    line = Sure(push=0.3)
    plans = planner(ICEMConfig(horizon=3, hold=3, iterations=2, candidates=20, shrink=1.0), line)
    left = (0, 2, 0, 1, 0, 0, 0, 1, 0)
    states, carries = lanes(plans, left, (0.9, 0.9, -0.7, 0.2, 0.1, -0.3, -0.8, 0.5, 0.6))

    @jax.jit
    def together_and_alone():
        def act(lane):
            return plans.act({}, World(line, {}), *lane)

        # `jax.lax.map` takes one after the other.
        return tuple(
            each(act)((states, carries, jax.random.split(new_key(), 9)))
            for each in (jax.vmap, lambda act: partial(jax.lax.map, act))
        )

    together, alone = together_and_alone()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), together, alone)
    np.testing.assert_array_equal(together[1].left, [each - 1 if each else 2 for each in left])


def test_lanes_that_are_not_due_dream_nothing(counted):
    line = Counted(push=0.3)
    plans = planner(MPPIConfig(horizon=3, hold=3, candidates=5, iterations=2), line)
    assert plans.dream_steps == 2 * 5 * 3 * 3
    act = jax.jit(jax.vmap(plans.act, (None, None, 0, 0, 0)))

    for due in ((), (2,), (0, 1, 2, 3), (0, 3, 4, 5, 8), range(9)):
        left = jnp.ones(9, jnp.int32).at[jnp.array(due, int)].set(0)
        where = lanes(plans, left, jnp.linspace(0.1, 0.9, 9))
        jax.block_until_ready(act({}, World(line, {}), *where, jax.random.split(new_key(), 9)))
        blocks = -(-len(due) // PLANNING)
        assert counted() == PLANNING * blocks * plans.dream_steps


# Tree search


TREES = {"gumbel": MCTSConfig(policy="gumbel"), "stochastic": MCTSConfig(policy="stochastic", outcomes=2)}


@pytest.mark.parametrize("config", TREES.values(), ids=TREES)
def test_trees_lead_home_with_fresh_weights(config):
    settings = replace(config, hidden_sizes=(8,), horizon=6, hold=3, simulations=30, discount=0.9)
    plans = planner(settings, Sure(push=0.1))
    params = jax.jit(plans.init)(new_key(1))
    for place in (0.9, -0.9):
        np.testing.assert_array_equal(decide(plans, at(place), params=params)[0], [-np.sign(place)])


def test_a_tree_dreams_an_action_for_each_node_and_where_there_are_outcomes_all_of_them_and_one_again():
    config = MCTSConfig(simulations=30, hold=3, outcomes=4)
    assert planner(config, Line()).dream_steps == 30 * 3
    assert planner(replace(config, policy="stochastic"), Line()).dream_steps == (30 * (4 + 1) + 4) * 3


@pytest.mark.parametrize("config", TREES.values(), ids=TREES)
def test_trees_lead_home_where_nothing_is_learned_and_their_horizon_is_a_number_of_actions(config):
    """All first actions earn the same, and the second ones, the last, what the first one has led to."""
    plans = planner(replace(config, hidden_sizes=(), horizon=2, hold=1, simulations=200), Sure())
    for place in (0.9, -0.9):
        np.testing.assert_array_equal(decide(plans, at(place))[0], [-np.sign(place)])


def tree(config, line, rules=REWARDED):
    plans = planner(config, line, rules)
    found = _Tree(plans, plans.dream, {}, World(line, {}))
    found.key = new_key(3)
    return found


def node(place):
    return DreamState(at(place), jnp.int32(0), jnp.float32(0))


def test_the_prior_and_the_value_of_a_tree_are_those_that_were_learned():
    """Of networks that ignore their inputs: what their last biases say; the value is in units of the critic."""
    plans = planner(MCTSConfig(hidden_sizes=(8,), discount=0.9), Line())
    params = jax.tree.map(jnp.zeros_like, plans.init(new_key(1)))
    told = {"policy": [0.3, -2.0, 1.0], "critic": [0.7]}
    params = {
        name: (*layers[:-1], replace(layers[-1], bias=jnp.asarray(told[name], jnp.float32)))
        for name, layers in params.items()
    }
    logits, value = _Tree(plans, plans.dream, params, World(plans.dream.model, {})).judge(node(0.4))
    np.testing.assert_allclose(jax.nn.softmax(logits), jax.nn.softmax(jnp.asarray(told["policy"])), rtol=1e-5)
    np.testing.assert_allclose(value, 7.0, rtol=1e-5)


def test_a_tree_considers_all_actions():
    """The best of twenty is the last one, and the prior knows nothing."""
    actions = tuple((float(action),) for action in np.linspace(1, -1, 20))
    config = MCTSConfig(hidden_sizes=(), policy="gumbel", horizon=2, hold=1, simulations=200)
    plans = config.build(Dream(Sure(), REWARDED, actions))
    np.testing.assert_array_equal(decide(plans, at(0.9))[0], [-1.0])


def test_an_edge_of_a_tree_earns_what_its_steps_do_and_leaves_to_the_rest_what_is_not_over():
    rules = replace(REWARDED, end="drawn")
    found = tree(MCTSConfig(hidden_sizes=(), hold=3, discount=0.9), Line(spread=0.0, wall=1.0), rules)
    after, earned, weight = jax.jit(found.follow)(node(0.9), jnp.int32(0), new_key())
    without, with_one = (worked_out(0.9, (-1.0,), 3, 0.9, 1.0, value=lambda z, rest=rest: rest) for rest in (0, 1))
    np.testing.assert_allclose(after.world.z, [-0.6], rtol=1e-5)
    np.testing.assert_allclose((earned, weight), (without, with_one - without), rtol=1e-5)


def test_no_number_of_a_tree_is_infinite_where_its_dream_breaks():
    found = tree(MCTSConfig(hidden_sizes=(), hold=3), Breaking(spread=0.0))
    _, earned, weight = jax.jit(found.follow)(node(0.9), jnp.int32(2), new_key())
    assert np.isfinite(earned) and weight == 0


def test_an_outcome_of_an_action_is_the_same_whenever_it_is_asked_for_and_the_mean_over_all_is_its_value():
    found = tree(MCTSConfig(hidden_sizes=(), hold=2, policy="stochastic", outcomes=3), Line(spread=0.3))
    actions, nodes = jnp.zeros(3, jnp.int32), jax.tree.map(lambda leaf: jnp.asarray(np.stack([leaf] * 3)), node(0.9))

    @jax.jit
    def asked(numbers, key):
        chances, chosen = found.decide((), key, actions, nodes)
        return chances, *found.happen((), jax.random.clone(key), numbers, chosen)

    (chances, once, after), (_, again, _) = (
        asked(jnp.asarray(numbers, jnp.int32), new_key(number)) for number, numbers in enumerate(((0, 1, 2), (2, 1, 0)))
    )
    assert len(np.unique(after.world.z)) == len(np.unique(once.reward)) == 3
    np.testing.assert_array_equal(once.reward, again.reward[::-1])
    np.testing.assert_allclose(chances.afterstate_value, [once.reward.mean()] * 3, rtol=1e-5)
    assert np.unique(chances.chance_logits).size == 1


def test_a_tree_needs_actions_to_choose_from():
    with pytest.raises(
        UserError, match=r"'categorical' but the task names no discrete actions; give its Task `actions`"
    ):
        MCTSConfig().build(Dream(Line(), REWARDED))


# What is learned


GUIDED = {
    "cem": CEMConfig(horizon=4, discount=0.9, hidden_sizes=(8,), features=("z",)),
    "mcts": MCTSConfig(discount=0.9, hidden_sizes=(8,)),
}


@pytest.mark.parametrize("config", GUIDED.values(), ids=GUIDED)
def test_the_weights_of_a_planner_are_those_of_its_policy_and_its_critic(config):
    plans = planner(config, Line())
    params = actors.shapes(plans)
    assert set(params) == {"policy", "critic"}
    assert plans.parts(params) == (params["policy"], params["critic"])
    assert plans.assemble(*plans.parts(params)) == params
    assert plans.parts(params) == (actors.shapes(plans.guide), actors.shapes(plans.guide.critic))
    # All features, z h c, or the one that is named; two parameters of a normal distribution, or one for each action.
    inputs, outputs = (1, 2) if config.features else (3, 3)
    assert actors.size(plans.guide) == 8 * (inputs + 1) + outputs * (8 + 1)


def test_a_planner_that_learns_nothing_has_no_weights():
    for config in (*SEQUENCES.values(), MCTSConfig(hidden_sizes=())):
        plans = planner(config, Line())
        assert plans.guide is None and plans.init(new_key()) == {}


def test_a_learned_value_stands_for_what_comes_after_a_plan():
    """The critic tells the mean reward as far as one can see, which is (1 - gamma) of the sum."""
    line = Sure()
    plans = planner(GUIDED["cem"], line)
    params = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.1, np.float32), actors.shapes(plans))
    found = jax.jit(plans.returns)(params, World(line, {}), at(0.5), sequences((0.0,) * 4), new_key())
    # Eight units of tanh on the one feature, and all weights are 0.1.
    mean = 8 * 0.1 * np.tanh(0.1 * 0.5 + 0.1) + 0.1
    expected = worked_out(0.5, (0.0,) * 4, discount=0.9, value=lambda z: mean / (1 - 0.9))
    np.testing.assert_allclose(found, [expected], rtol=1e-5)


@pytest.mark.parametrize("config", GUIDED.values(), ids=GUIDED)
def test_the_value_of_a_sum_without_an_end_is_refused(config):
    with pytest.raises(UserError, match=r"actor\.discount must be between 0\.0 and 0\.9999, found 1\.0"):
        planner(replace(config, discount=1.0), Line())


@pytest.mark.parametrize(
    "config, name, value",
    [
        (CEMConfig, "horizon", 0),
        (ICEMConfig, "hold", 0),
        (MPPIConfig, "discount", 1.01),
        (CEMConfig, "particles", 0),
        (CEMConfig, "candidates", 199),
        (CEMConfig, "shrink", 0.5),
        (ICEMConfig, "kept", 1.1),
        (ICEMConfig, "momentum", 1.0),
        (CEMConfig, "execute", "median"),
        (MPPIConfig, "temperature", 0.0),
        (MPPIConfig, "candidates", 0),
        (MPPIConfig, "deviation", 0.0),
        (MPPIConfig, "colour", -1.0),
        (MCTSConfig, "simulations", 0),
        (MCTSConfig, "outcomes", 0),
        (MCTSConfig, "policy", "muzero"),
    ],
)
def test_impossible_settings_are_refused(config, name, value):
    with pytest.raises(UserError, match=rf"actor\.{name} must be .*, found '?{value}"):
        config(**{name: value})
