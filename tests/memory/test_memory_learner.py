"""M's training as a run has it: on the training episodes alone, and the same after a stop."""

from dataclasses import replace
from typing import Any, cast

import jax
import numpy as np
import pytest
from memory_data import random_observations

from wm_jax import parallel
from wm_jax.data import observations
from wm_jax.data.training import TrainingData
from wm_jax.experiment import Experiment, flatten
from wm_jax.memory import Memory, MemoryConfig
from wm_jax.memory.evaluation import evaluate
from wm_jax.memory.learner import REPORTS, MemoryLearner
from wm_jax.memory.train import chunks_from, continue_from, train_step
from wm_jax.optimizers import OptimizerConfig

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIG = MemoryConfig(
    hidden_size=8, mixtures=2, restart_input=True, predict_done=True, batch_size=3, sequence_length=10, steps=9,
    later_steps=4, optimizer=OptimizerConfig(learning_rate=1e-2, schedule="cosine", clip=1.0),
)  # fmt: skip
LEARNER = MemoryLearner(Memory(CONFIG, latent_size=3, action_size=2))
PARAMS = LEARNER.init(jax.random.key(0))
KEY, MESH, SEED = jax.random.key(7), parallel.mesh(1), 11
RECORDED = random_observations([40, 25, 31, 60, 37, 22], [True, False, True, True, False, True])
DATA = TrainingData(cast(Any, None), np.array([0, 2, 3, 5]), np.array([1, 4]), RECORDED, np.array([0, 5]))
"""153 training frames: an epoch is 5 chunks of 3 sequences of 10. Reports are of 62 frames each, to compile once."""


def trained(data: TrainingData, state: Any, begun: int, stop: int) -> tuple[Any, list[dict[str, Any]]]:
    """The state on the host after the steps `begun` … `stop` - 1, and their metrics."""
    advance, metrics = LEARNER.advance(data, SEED, begun, KEY, MESH), []
    for _ in range(begun, stop):
        state, found = advance(state)
        metrics.append(jax.device_get(found))
    return jax.device_get(state), metrics


def laid_out(state: Any) -> Any:
    """A state from the host on the devices, as a training has it there: anything else would be compiled anew."""
    return jax.tree.map(lambda array, like: jax.device_put(array, like.sharding), state, LEARNER.start(PARAMS, MESH))


def assert_same(left: Any, right: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_what_is_stopped_goes_on_with_the_same_bits() -> None:
    """In the middle of an epoch, whose carried state of the LSTM counts, and at the beginning of one."""
    kept = jax.device_get(PARAMS)
    whole, metrics = trained(DATA, LEARNER.start(PARAMS, MESH), 0, 9)
    for stop in (3, 5):
        stopped, before = trained(DATA, LEARNER.start(PARAMS, MESH), 0, stop)
        again, after = trained(DATA, laid_out(stopped), stop, 9)
        assert_same(whole, again)
        assert_same(metrics, before + after)
    assert_same(kept, jax.device_get(PARAMS))
    assert whole.step == 9 and not np.array_equal(whole.params["head"]["kernel"], kept["head"]["kernel"])


def test_a_step_is_that_of_M_on_the_stream_of_the_training_episodes() -> None:
    start, length = (np.asarray(array)[DATA.training] for array in (RECORDED.start, RECORDED.length))
    state, recorded, metrics = LEARNER.start(PARAMS, MESH), parallel.replicate(MESH, RECORDED), {}
    assert_same(jax.device_get(state), jax.device_get(continue_from(LEARNER.model, PARAMS)))
    for chunk, _ in zip(chunks_from(start, length, 3, 10, SEED, 0), range(2), strict=False):
        assert not np.isin(chunk.positions, [*range(40, 65), *range(156, 193)]).any(), "those of held-out episodes"
        chunk = replace(chunk, positions=parallel.rows(MESH, chunk.positions))
        state, metrics = train_step(LEARNER.model, state, recorded, chunk, KEY)
    found, told = trained(DATA, LEARNER.start(PARAMS, MESH), 0, 2)
    assert_same(found, jax.device_get(state))
    assert_same(told[-1], jax.device_get(metrics))
    assert LEARNER.watch in told[-1]
    assert {name for curve in LEARNER.curves for name in curve.metrics} <= told[-1].keys()


def test_it_lasts_as_long_as_it_is_told_and_nothing_else_changes() -> None:
    assert (LEARNER.steps, LEARNER.later_steps, LEARNER.batch_size, LEARNER.units) == (9, 4, 3, 30)
    assert LEARNER.with_steps(7) == replace(LEARNER, model=replace(LEARNER.model, config=replace(CONFIG, steps=7)))
    assert hash(LEARNER.with_steps(9)) == hash(LEARNER) and LEARNER.with_steps(9) == LEARNER != LEARNER.with_steps(7)
    settings = flatten(Experiment())
    assert all(f"{LEARNER.settings}{name}" in settings for name in ("steps", "later_steps", "batch_size"))


def test_its_reports_are_of_held_out_episodes_and_of_as_many_that_it_is_trained_on() -> None:
    report = LEARNER.reporter(DATA)(PARAMS, KEY)
    assert report.frames is None
    expected = {
        f"{prefix}_{name}": value
        for prefix, episodes in (("held_out", [1, 4]), ("trained", [0, 5]))
        for name, value in evaluate(
            LEARNER.model, PARAMS, observations.select(RECORDED, np.array(episodes)), jax.random.clone(KEY)
        ).items()
    }
    assert report.numbers == expected
    assert report.numbers[f"held_out_{LEARNER.watch}"] != report.numbers[f"trained_{LEARNER.watch}"]
    nothing = np.zeros(0, int)
    assert LEARNER.reporter(replace(DATA, held_out=nothing, trained=nothing))(PARAMS, KEY).numbers == {}


def test_it_reports_a_few_times_but_not_more_often_than_once_an_epoch() -> None:
    assert LEARNER.report_every(DATA) == 5
    assert LEARNER.with_steps(4).report_every(DATA) == 4
    assert LEARNER.with_steps(100).report_every(DATA) == 100 // REPORTS == 20


def test_its_cost_grows_with_the_frames_of_a_step() -> None:
    params = sum(leaf.size for leaf in jax.tree.leaves(PARAMS))
    longer = replace(LEARNER, model=replace(LEARNER.model, config=replace(CONFIG, sequence_length=20)))
    assert longer.flop(params) == 2 * LEARNER.flop(params) == 2 * 6 * params * 30
    fixed = 16 * params
    assert longer.bytes_in_training(params) - fixed == 2 * (LEARNER.bytes_in_training(params) - fixed) > 0
