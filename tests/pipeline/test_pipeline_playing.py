"""C evolved in the actual environment: stopped anywhere it ends with the same bits, and nothing whole is played twice."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from untrained import Impatient, context

from wm_jax.actors import protocol as actors
from wm_jax.data.weights import load_weights, save_weights
from wm_jax.errors import UserError
from wm_jax.experiment import Experiment, load
from wm_jax.models import Models
from wm_jax.pipeline import playing, reporting, searching
from wm_jax.pipeline.progress import Interrupt, Stopped
from wm_jax.pipeline.running import check
from wm_jax.pipeline.weights import WEIGHTS, controller_like, load_controller, load_controllers, load_deployed
from wm_jax.rollouts.acting import Lanes
from wm_jax.rollouts.config import EVOLUTION_SEED, VALIDATION_SEED, evolution_seeds
from wm_jax.rollouts.limits import WHOLE, Limits
from wm_jax.run import RunDir
from wm_jax.search.backprop import BackpropConfig
from wm_jax.search.cma_es import CMAESConfig
from wm_jax.search.config import EvolveConfig, TuneConfig
from wm_jax.worlds.vision_memory import VisionMemoryConfig

pytestmark = [pytest.mark.whole, pytest.mark.usefixtures("quick_compilation")]

POOL = str(Path(__file__).parents[1] / "rollouts" / "pool_task.py")
POPULATION, ROLLOUTS, GENERATIONS, VALIDATION, SEEDS = 6, 2, 3, 4, 2


@pytest.fixture(scope="module")
def experiment(probe_experiment: Path) -> Experiment:
    evolve = EvolveConfig(
        generations=GENERATIONS, evaluate_every=2, select="actual", actual_episodes=VALIDATION, seeds=SEEDS,
        fitness="actual", environments=2, backend="pool",
    )  # fmt: skip
    found = load(probe_experiment)
    assert isinstance(found.world, VisionMemoryConfig)
    memory = dataclasses.replace(found.world.memory, predict_reward=False, predict_done=False, steps=0)
    found = dataclasses.replace(
        found,
        task=POOL,
        world=dataclasses.replace(found.world, memory=memory),
        search=CMAESConfig(population=POPULATION, rollouts=ROLLOUTS),
        evolve=evolve,
        evaluate=dataclasses.replace(found.evaluate, environments=2),
    )
    check(found, Models(found))
    return found


def evolve(experiment: Experiment, folder: Path, interrupt: Interrupt) -> dict:
    with interrupt:
        here = context(experiment, folder, interrupt)
        return searching.Evolve().run(here, 0, here.stage("controller", 0))


@pytest.fixture(scope="module")
def whole(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    evolve(experiment, folder, Interrupt())
    return folder


def test_stopped_anywhere_it_ends_with_the_same_bits(
    experiment: Experiment, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played: list[int] = []
    play = Lanes.play

    def counted(self, driver, episodes, record=False, tick=lambda finished: None):
        found = play(self, driver, episodes, record, tick)
        played.append(len(found))
        return found

    monkeypatch.setattr(Lanes, "play", counted)
    stops, ended = 0, False
    while not ended:
        assert stops < 20, "it does not get on"
        try:
            evolve(experiment, tmp_path, Impatient(800))
            ended = True
        except Stopped as stop:
            stops += 1
            assert "the same command continues" in str(stop)
    assert stops > 3
    means = 2 * SEEDS * VALIDATION
    assert sum(played) == SEEDS * POPULATION * ROLLOUTS * GENERATIONS + means, "a whole block was played twice"
    for name in searching.RESULTS:
        ours, theirs = (folder / "controller" / "round-0" / name for folder in (tmp_path, whole))
        assert ours.read_bytes() == theirs.read_bytes(), name


def test_every_file_is_there_and_no_dream_is_told_of(experiment: Experiment, whole: Path) -> None:
    folder = whole / "controller" / "round-0"
    evaluations = json.loads((folder / searching.EVALUATIONS).read_text())
    assert [(e["generation"], e["seed"]) for e in evaluations] == [(2, 0), (2, 1), (3, 0), (3, 1)]
    assert all(e["dream"] is None and e["actual"]["n"] == VALIDATION for e in evaluations)
    best = max(evaluations, key=lambda e: e["actual"]["mean"])
    here = context(experiment, whole, Interrupt())
    deployed, about = load_controller(here, 0)
    assert about["actual"] == best["actual"] and about["selected_by"] == "actual"
    controllers = np.asarray(actors.flat(load_controllers(here, 0)[0], 1))
    assert len(np.unique(controllers, axis=0)) == SEEDS
    assert any((actors.flat(deployed) == each).all() for each in controllers)
    for evaluation in evaluations:
        reporting._require_played(folder, evaluation)
    lines = list(RunDir(whole).metrics())
    assert [line["step"] for line in lines if "best" in line] == [1, 2, 3]
    assert all(len(line["mean"]) == SEEDS for line in lines if "best" in line)


def test_all_candidates_of_a_generation_meet_the_same_new_episodes(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    met: list[list[tuple[int, int]]] = []

    def noted(self, driver, episodes, record=False, tick=lambda finished: None):
        met.append(list(episodes))
        raise KeyboardInterrupt

    monkeypatch.setattr(Lanes, "play", noted)
    with pytest.raises(KeyboardInterrupt):
        evolve(experiment, tmp_path, Interrupt())
    by_candidate = [[seed for seed, row in met[0] if row == candidate] for candidate in range(4)]
    assert by_candidate == [by_candidate[0]] * 4 and len(set(by_candidate[0])) == ROLLOUTS
    drawn = [evolution_seeds(5, evolution, generation, 16) for evolution in range(2) for generation in range(50)]
    every = [seed for seeds in drawn for seed in seeds]
    assert len(set(every)) == len(every)
    assert min(every) >= EVOLUTION_SEED > VALIDATION_SEED and max(every) < 2**30


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, r"evolve\.select is 'dream' but evolve\.fitness is 'actual'"),
        ({"select": "actual", "temperatures": (1.0, 1.3)}, r"evolve\.temperatures is \(1\.0, 1\.3\) but"),
        ({"select": "actual", "environments": 0}, r"evolve\.environments must be between 1"),
        ({"select": "actual", "actual_episodes": 0}, r"evolve\.actual_episodes must be at least 1"),
    ],
)
def test_what_only_a_dream_has_is_refused(settings: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        EvolveConfig(fitness="actual", **settings)


def test_candidates_play_as_long_as_the_experiment_says_and_means_whole_episodes(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[list[int]] = []
    where: list[tuple[Limits, str | None]] = []
    play = Lanes.play

    def noted(self, *arguments, **options):
        found = play(self, *arguments, **options)
        lengths.append([len(episode.rewards) for episode in found])
        where.append((self.limits, self.backend))
        return found

    monkeypatch.setattr(Lanes, "play", noted)
    config = dataclasses.replace(experiment.evolve, generations=1, seeds=1, max_steps=2, patience=9)
    short = dataclasses.replace(experiment, evolve=config)
    check(short, Models(short))
    evolve(short, tmp_path, Interrupt())
    *played, validated = lengths
    assert [steps for block in played for steps in block] == [2] * POPULATION * ROLLOUTS
    assert len(validated) == VALIDATION and max(validated) > 2
    assert where == [(Limits(2, 9), "pool")] * len(played) + [(WHOLE, "pool")]
    long = dataclasses.replace(experiment, evolve=dataclasses.replace(config, max_steps=81))
    with pytest.raises(UserError, match=r"evolve\.max_steps must be between 1 and 80, found 81"):
        check(long, Models(long))


def test_a_backend_that_is_not_there_is_named_before_anything_runs(experiment: Experiment) -> None:
    for name in ("collect", "evolve"):
        wrong = dataclasses.replace(experiment, **{name: dataclasses.replace(getattr(experiment, name), backend="pol")})
        with pytest.raises(UserError, match=rf"{name}\.backend must be .* did you mean 'pool'"):
            check(wrong, Models(wrong))


TUNE = TuneConfig(generations=GENERATIONS, evaluate_every=2, actual_episodes=VALIDATION, environments=2, backend="pool",
                  search=CMAESConfig(population=POPULATION, rollouts=ROLLOUTS, sigma=1e-6))  # fmt: skip


def tune(
    experiment: Experiment, folder: Path, interrupt: Interrupt, sigma: float = 1e-6
) -> tuple[np.ndarray, dict[str, Any]]:
    """How far [M, D] the evaluated means are from the controller that dreams are said to have made, where it is tuned; and
    what is told of the deployed one."""
    search = CMAESConfig(population=POPULATION, rollouts=ROLLOUTS, sigma=sigma)
    found = dataclasses.replace(experiment, evolve=EvolveConfig(), tune=dataclasses.replace(TUNE, search=search))
    with interrupt:
        here = context(found, folder, interrupt)
        begin = np.linspace(-1, 1, actors.size(here.models.actor), dtype=np.float32)
        dreamt = {"weights": actors.unflat(actors.shapes(here.models.actor), begin)}
        save_weights(here.stage("controller", 0).path / WEIGHTS, dreamt, {"temperature": 1.15, "seed": 1})
        about = searching.Tune().run(here, 0, here.controller(0))
        weights, told = load_controller(here, 0)
        assert told["temperature"] == about["temperature"] == 1.15 and told["dream"] is None
        evaluations = json.loads((here.controller(0).path / searching.EVALUATIONS).read_text())
        assert [each["generation"] for each in evaluations] == [0, 2, 3]
        means = load_weights(here.controller(0).path / searching.CANDIDATES)[0]["means"]
        means = controller_like(folder, {"means": means}, "means", here.models.actor, (3, 1))
        means = np.asarray(actors.flat(means, 2))[:, 0]
        best = max(range(3), key=lambda slot: evaluations[slot]["actual"]["mean"])
        assert told["generation"] == evaluations[best]["generation"]
        np.testing.assert_array_equal(actors.flat(weights), means[best])
        assert {len(leaf) for leaf in jax.tree.leaves(load_controllers(here, 0)[0])} == {1}
        assert actors.flat(load_deployed(here, here.stage("controller", 0))[0]).tolist() == begin.tolist()
        return np.abs(means - begin), about


def test_tuning_begins_where_the_dreams_have_ended(experiment: Experiment, tmp_path: Path) -> None:
    """And that very controller is generation 0."""
    near, far = (tune(experiment, tmp_path / str(sigma), Interrupt(), sigma)[0] for sigma in (1e-6, 0.1))
    assert not near[0].any() and 0 < near[1:].max() < 1e-5
    assert not far[0].any() and 0.01 < far[1:].max() < 1


def test_what_tuning_only_harms_is_deployed_as_it_was(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation is said to have gone worse with every generation, or as well as before."""
    for harm in (1, 0):

        def validate(self, candidates, generation, harm=harm):
            return np.full((1, VALIDATION), -harm * generation, np.float32)

        monkeypatch.setattr(playing.Validation, "__call__", validate)
        moved, about = tune(experiment, tmp_path / str(harm), Interrupt(), sigma=0.1)
        assert about["generation"] == 0 and about["actual"]["mean"] == 0 and moved[1:].all()


def test_tuning_stopped_anywhere_ends_with_the_same_bits(experiment: Experiment, tmp_path: Path) -> None:
    tune(experiment, tmp_path / "whole", Interrupt())
    stops, ended = 0, False
    while not ended:
        assert stops < 20, "it does not get on"
        try:
            tune(experiment, tmp_path / "stopped", Impatient(400))
            ended = True
        except Stopped:
            stops += 1
    assert stops > 3
    for name in searching.RESULTS:
        ours, theirs = (tmp_path / run / "tuned" / "round-0" / name for run in ("stopped", "whole"))
        assert ours.read_bytes() == theirs.read_bytes(), name


def test_only_what_dreams_have_made_is_tuned(experiment: Experiment) -> None:
    both = dataclasses.replace(experiment, tune=TUNE)
    with pytest.raises(UserError, match=r"tune\.generations is 3 but evolve\.fitness is 'actual'"):
        check(both, Models(both))
    long = dataclasses.replace(both, evolve=EvolveConfig(), tune=dataclasses.replace(TUNE, max_steps=81))
    with pytest.raises(UserError, match=r"tune\.max_steps must be"):
        check(long, Models(long))


def test_a_search_that_learns_in_dreams_cannot_play_outside(experiment: Experiment, probe_experiment: Path) -> None:
    """Neither from the start nor where it tunes."""
    learning = dataclasses.replace(experiment, search=BackpropConfig())
    with pytest.raises(UserError, match=r"^search\.kind is 'backprop', which learns in dreams"):
        check(learning, Models(learning))
    tuned = TuneConfig(generations=GENERATIONS, search=BackpropConfig())
    tuning = dataclasses.replace(load(probe_experiment), tune=tuned)
    with pytest.raises(UserError, match=r"^tune\.search\.kind is 'backprop', which learns in dreams"):
        check(tuning, Models(tuning))
