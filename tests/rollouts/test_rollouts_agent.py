"""World model and controller in the actual environment do exactly what they do in the dream, and lanes do not disturb each
other."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_agent import ACTOR, PARAMS, WORLD, controllers, row, rows, small_agent

from wm_jax.actors.mlp import MLPConfig
from wm_jax.actors.protocol import size
from wm_jax.dream import Dream, DreamConfig, start_states
from wm_jax.errors import UserError
from wm_jax.explore.noise import NoiseConfig
from wm_jax.lanes import SHARED_FROM
from wm_jax.rollouts.acting import Lanes, Played, ScriptedBatch, ScriptedDriver
from wm_jax.rollouts.agent import Agent, AgentDriver, act, begin, initial_state
from wm_jax.rollouts.evaluate import BLOCK, outcomes, summary
from wm_jax.tasks import load_task
from wm_jax.types import Observations, Params
from wm_jax.vision import LatentStats
from wm_jax.worlds import Actor, World

pytestmark = pytest.mark.usefixtures("quick_compilation")

PROBE = str(Path(__file__).parent.parent / "probe_task.py")
SEEDS = [(100 + i, 0) for i in range(BLOCK + 3)]
TABLE = controllers()
EXPLORER = NoiseConfig(action_noise=0.2, random_stretches=0.3, stretch_length=3).build(1)


@dataclass(frozen=True)
class Whim(Actor):
    """An actor that draws, that counts the steps of its episode, and that has no weights where it is not `moody`."""

    moody: bool

    def init(self, key: jax.Array) -> Params:
        return {"mood": jnp.zeros(1, jnp.float32)} if self.moody else {}

    def begin(self) -> jax.Array:
        return jnp.int32(0)

    def act(self, params: Params, world: World, state: Any, carry: Any, key: jax.Array) -> tuple[jax.Array, Any]:
        mood = params["mood"] if self.moody else 0.0
        seen = world.features(state)["z"][:1]
        return jnp.tanh(mood + seen + 0.1 * carry + jax.random.normal(key, (1,), jnp.float32)), carry + 1


def noise(seed: int, *leading: int) -> np.ndarray:
    """Frames [..., 64, 64, 3] of noise."""
    return np.random.default_rng(seed).integers(0, 256, (*leading, 64, 64, 3), np.uint8)


def play(driver: Any, lanes: int, record: bool = False, seeds: list[tuple[int, int]] = SEEDS) -> list[Played]:
    with Lanes(PROBE, lanes, print) as opened:
        return opened.play(driver, seeds, record)


def by_hand(agent: Agent, weights: Params, seed: int, frames: np.ndarray) -> tuple[list[Any], np.ndarray]:
    """The world model's state on each frame, and the actions, by a plain loop: what the dream does with a recording."""
    world, state, action, states, actions = World(WORLD, PARAMS), None, jnp.zeros(1, jnp.float32), [], []
    carry, exploration = agent.actor.begin(), agent.explorer.begin() if agent.explorer else None
    for t, frame in enumerate(frames):
        key, obs = jax.random.fold_in(jax.random.key(seed), t), world.encode(jnp.asarray(frame))
        state = world.observe(state, action, obs, key) if t else world.begin(obs, key)
        action, carry = agent.actor.act(weights, world, state, carry, jax.random.fold_in(key, 0))
        if agent.explorer:
            features, explore_key = world.features(state), jax.random.fold_in(key, 1)
            action, exploration = agent.explorer.act(action, features, exploration, explore_key)
        states.append(state)
        actions.append(action)
    return states, np.array(actions)


def assert_near(left: Any, right: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), left, right)


@pytest.mark.parametrize(
    ("actor", "explorer"), [(ACTOR, None), (ACTOR, EXPLORER), (Whim(moody=True), EXPLORER), (Whim(moody=False), None)]
)
def test_actions_are_those_of_a_plain_loop_in_the_dreams_order(actor: Any, explorer: Any) -> None:
    """Of two lanes with controllers and seeds of their own, the second of which begins later, and after another episode."""
    agent, table = small_agent(actor, explorer), controllers(actor) if size(actor) else {}
    batch = AgentDriver(agent, PARAMS, table).open(2)
    batch.begin({0: (5, 0), 1: (77, 0)})
    frames, states, actions = noise(0, 7, 2), [], []
    for t, both in enumerate(frames):
        if t == 3:
            batch.begin({1: (6, 1)})
        actions.append(batch(both))
        states.append(batch.state.world)
    for lane, seed, first in ((0, 5, 0), (1, 6, 3)):
        expected, done = by_hand(agent, row(table, lane), seed, frames[first:, lane])
        np.testing.assert_allclose(np.stack(actions)[first:, lane], done, atol=1e-5)
        assert len({tuple(action) for action in done}) > 1
        for found, state in zip(states[first:], expected, strict=True):
            assert_near(row(found, lane), state)


def test_states_are_those_of_the_dream() -> None:
    """The state in which the controller acts is that of a dream that starts on this frame of the recorded episode."""
    agent, length = small_agent(), 40
    state = initial_state(agent, rows(TABLE, slice(1)), 1)
    state = begin(agent, rows(TABLE, slice(1)), state, np.array([True]), np.zeros(1, int), np.array([5], np.uint32))
    seen, actions = [], []
    for frame in noise(3, length):
        state, action = act(agent, PARAMS, rows(TABLE, slice(1)), state, frame[None])
        seen.append(row(state.world, 0))
        actions.append(action)
    # A posterior without width: the dream's z are then the very z that the agent sampled.
    z = jnp.stack([each.z for each in seen])
    one = Observations(
        LatentStats(z, jnp.full_like(z, -jnp.inf)), jnp.concatenate(actions), jnp.zeros(length, jnp.float32),
        jnp.array([0]), jnp.array([length]), jnp.array([False]),
    )  # fmt: skip
    dream, found = Dream(WORLD, DreamConfig(start="anywhere")), set()
    for number in range(4):
        starts = start_states(dream, PARAMS, one, jax.random.key(number))
        for place in range(len(starts.z)):
            started = row(starts, place)
            t = int(np.abs(z - started.z[None]).sum(1).argmin())
            assert_near(started, seen[t])
            found.add(t)
    assert len(found) > 4


def test_episodes_come_in_order_and_repeat_to_the_bit() -> None:
    first, second = (play(AgentDriver(small_agent(), PARAMS, TABLE), 3) for _ in range(2))
    assert [episode.seed for episode in first] == [seed for seed, _ in SEEDS]
    assert [episode.rewards for episode in first] == [episode.rewards for episode in second]
    assert all(episode.terminated or len(episode.rewards) == 80 for episode in first)


def test_each_lane_has_its_own_controller() -> None:
    both = play(AgentDriver(small_agent(), PARAMS, TABLE), 2, record=True, seeds=[(7, 0), (7, 1)])
    alone = play(AgentDriver(small_agent(), PARAMS, rows(TABLE, slice(1, 2))), 2, record=True, seeds=[(7, 0)])
    np.testing.assert_array_equal(both[0].frames[0], both[1].frames[0])
    assert not np.array_equal(both[0].actions[0], both[1].actions[0])
    np.testing.assert_allclose(both[1].actions[0], alone[0].actions[0], rtol=1e-5)


@pytest.mark.parametrize("large", [False, True])
def test_a_lone_controller_does_what_it_does_among_several(large: bool) -> None:
    """A small one to the last bit; the weights of a large one, which all lanes share, are multiplied in another order."""
    wide = MLPConfig(features=("z", "c", "h"), hidden_sizes=(SHARED_FROM // 20,))
    actor = wide.build(Dream(WORLD, DreamConfig())) if large else ACTOR
    table = controllers(actor)
    alone, among = (AgentDriver(small_agent(actor), PARAMS, weights) for weights in (rows(table, slice(1, 2)), table))
    alone, among = alone.open(3), among.open(3)
    assert (alone.state.weights is None) == large and among.state.weights is not None
    alone.begin({lane: (lane, 0) for lane in range(3)})
    among.begin({lane: (lane, 1) for lane in range(3)})
    for frames in noise(4, 5, 3):
        np.testing.assert_allclose(alone(frames), among(frames), rtol=0, atol=1e-5 if large else 0)


def test_lanes_go_on_undisturbed_where_others_begin() -> None:
    frames, actions = noise(6, 6, 2), []
    batches = [AgentDriver(small_agent(explorer=EXPLORER), PARAMS, TABLE).open(2) for _ in range(2)]
    for batch in batches:
        batch.begin({0: (1, 0), 1: (2, 1)})
    for t, both in enumerate(frames):
        if t in (2, 4):
            batches[1].begin({1: (t, 0)})
        actions.append([batch(both) for batch in batches])
    undisturbed, disturbed = np.array(actions).swapaxes(0, 1)
    np.testing.assert_array_equal(undisturbed[:, 0], disturbed[:, 0])
    assert (undisturbed[2:, 1] != disturbed[2:, 1]).any(axis=1).all()
    assert [int(step) for step in batches[1].state.step] == [6, 2]


def test_many_steps_are_traced_once() -> None:
    traces: list[int] = []

    class Counting(Whim):
        def act(self, params: Params, world: World, state: Any, carry: Any, key: jax.Array) -> tuple[jax.Array, Any]:
            traces.append(0)
            return super().act(params, world, state, carry, key)

    batch = AgentDriver(small_agent(Counting(moody=True)), PARAMS, controllers(Whim(moody=True))).open(2)
    for seed in range(3):
        batch.begin({seed % 2: (seed, 0)})
        for frames in noise(0, 2, 2):
            batch(frames)
    assert len(traces) == 1


def test_exploration_is_what_M_is_fed() -> None:
    """Replaced actions are executed, recorded, and remembered by M."""
    agent = small_agent(explorer=NoiseConfig(random_stretches=0.5, stretch_length=1).build(1))
    batch, calm = (AgentDriver(each, PARAMS, TABLE).open(8) for each in (agent, small_agent()))
    episodes = {lane: (lane, 0) for lane in range(8)}
    batch.begin(episodes)
    calm.begin(episodes)
    first, second = noise(8, 2, 8)
    action, chosen = batch(first), calm(first)
    replaced = np.abs(action - chosen)[:, 0] > 1e-5
    assert 0 < replaced.sum() < 8
    before = batch.state.world
    batch(second)
    expected = jax.vmap(WORLD.memory.advance, (None, 0, 0, 0, 0))(
        PARAMS["memory"], before.memory, before.z, jnp.asarray(action), before.restart
    )
    assert_near(batch.state.world.memory, expected)
    np.testing.assert_array_equal(before.restart, np.ones(8))


def test_exploration_does_not_draw_what_the_environment_or_the_world_model_draws() -> None:
    agent = small_agent(explorer=NoiseConfig(action_noise=0.1).build(1))
    batch = AgentDriver(agent, PARAMS, jax.tree.map(jnp.zeros_like, TABLE)).open(1)
    batch.begin({0: (3, 0)})
    frame = noise(9, 1)
    drawn = float(batch(frame)[0, 0]) / 0.1
    environment = gymnasium.Env()
    environment.reset(seed=3)
    assert drawn != pytest.approx(environment.np_random.standard_normal(), rel=1e-3)
    stats = WORLD.encode(PARAMS, frame[0])
    of_z = (batch.state.world.z[0] - stats.mean) / jnp.exp(stats.log_var / 2)
    assert np.abs(drawn - of_z).min() > 1e-3


@pytest.mark.parametrize("longest", [1, 4])
def test_random_stretches_have_the_length_they_are_given(longest: int) -> None:
    agent = small_agent(explorer=NoiseConfig(random_stretches=1.0, stretch_length=longest).build(1))
    batch = AgentDriver(agent, PARAMS, TABLE).open(4)
    batch.begin({lane: (3 + lane, 0) for lane in range(4)})
    frames = noise(10, 4)
    drawn = np.stack([batch(frames)[:, 0] for _ in range(60)], axis=1)
    assert len(np.unique(drawn)) > 40 and np.abs(drawn).max() <= 1
    for values in drawn:
        ends = np.flatnonzero(np.diff(values, append=np.inf)) + 1
        lengths = np.diff(ends, prepend=0)
        assert set(lengths[:-1]) == set(range(1, longest + 1)), "one stretch follows on another"


def test_without_an_explorer_or_with_one_that_does_nothing_the_actor_is_obeyed() -> None:
    idle = small_agent(explorer=NoiseConfig().build(1))
    batches = [AgentDriver(agent, PARAMS, TABLE).open(2) for agent in (small_agent(), idle)]
    for batch in batches:
        batch.begin({0: (1, 0), 1: (2, 1)})
    for both in noise(11, 3, 2):
        np.testing.assert_allclose(batches[0](both), batches[1](both), atol=1e-6)


def test_the_best_scripted_policy_scores_what_is_known() -> None:
    scores = [sum(episode.rewards) for episode in play(ScriptedDriver(load_task(PROBE).policy("centre")), 2)]
    assert min(scores) > 75


def test_finished_blocks_are_not_played_again() -> None:
    played: list[int] = []

    class Counting(ScriptedBatch):
        def begin(self, episodes: dict[int, tuple[int, int]]) -> None:
            played.extend(seed for seed, _ in episodes.values())
            super().begin(episodes)

    class Counted(ScriptedDriver):
        def open(self, lanes: int) -> Counting:
            return Counting(self.policy, lanes)

    driver, saved, ticks = Counted(load_task(PROBE).policy("centre")), [], []
    with Lanes(PROBE, 1, print) as lanes:
        whole = outcomes(lanes, driver, SEEDS, [], lambda blocks: saved.append(list(blocks)), ticks.append)
        played.clear()
        rest = outcomes(lanes, driver, SEEDS, saved[0], lambda blocks: None, ticks.append)
    assert rest == whole
    assert played == [seed for seed, _ in SEEDS[BLOCK:]]
    assert sorted({count.finished for count in ticks[: len(ticks) - len(SEEDS)]}) == list(range(len(SEEDS) + 1))


def test_summary_against_numpy() -> None:
    values = [3.0, 5.0, 10.0]
    assert summary(values) == {
        "mean": 6.0, "sd": pytest.approx(np.std(values, ddof=1)), "se": pytest.approx(np.std(values, ddof=1) / 3**0.5),
        "n": 3,
    }  # fmt: skip


class Wide(Whim):
    """Gives two numbers where the world model is fed one."""

    def act(self, params: Params, world: World, state: Any, carry: Any, key: jax.Array) -> tuple[jax.Array, Any]:
        return jnp.zeros(2, jnp.float32), carry


def test_actions_of_another_size_are_refused_by_the_actors_name() -> None:
    batch = AgentDriver(small_agent(Wide(moody=False)), PARAMS, {}).open(2)
    with pytest.raises(UserError) as told:
        batch(noise(0, 2))
    assert str(told.value) == "act of Wide must return actions of shape [1], found [2]"
