"""What is shown while episodes are played counts steps; and how many lanes play them follows from the settings alone."""

import dataclasses
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import jax
import numpy as np
import pytest
from untrained import Impatient, context

from wm_jax import parallel
from wm_jax.actors import protocol as actors
from wm_jax.data.weights import save_weights
from wm_jax.experiment import Experiment, load
from wm_jax.pipeline import collecting, playing, scoring
from wm_jax.pipeline.context import Context
from wm_jax.pipeline.progress import Bar, Interrupt, Screen, Stopped, expected_steps
from wm_jax.pipeline.weights import WEIGHTS, load_controller, load_world
from wm_jax.rollouts.acting import Lanes, ScriptedDriver
from wm_jax.rollouts.agent import Agent
from wm_jax.tasks import load_task

POOL = str(Path(__file__).parents[1] / "rollouts" / "pool_task.py")
EPISODES, ENVIRONMENTS = 9, 6
Shown = tuple[int, int, str]
"""(done, total, note) of a bar."""


@pytest.fixture(scope="module")
def experiment(probe_experiment: Path) -> Experiment:
    found = load(probe_experiment)
    return dataclasses.replace(
        found,
        task=POOL,
        collect=dataclasses.replace(found.collect, backend="pool"),
        evolve=dataclasses.replace(found.evolve, backend="pool", actual_episodes=EPISODES),
        evaluate=dataclasses.replace(found.evaluate, environments=ENVIRONMENTS, episodes=EPISODES, baselines=()),
        rounds=dataclasses.replace(found.rounds, count=2, episodes=EPISODES),
    )


@pytest.fixture
def here(experiment: Experiment, tmp_path: Path) -> Context:
    return prepared(experiment, tmp_path, Interrupt())


def prepared(experiment: Experiment, folder: Path, interrupt: Interrupt) -> Context:
    """A run whose first round has made a controller."""
    found = context(experiment, folder, interrupt)
    like = actors.shapes(found.models.actor)
    weights = {"weights": actors.unflat(like, np.linspace(-1, 1, actors.size(found.models.actor), dtype=np.float32))}
    path = found.stage("controller", 0).path / WEIGHTS
    if not path.exists():
        save_weights(path, weights, {})
    return found


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Shown]:
    """All that bars show."""
    seen: list[Shown] = []
    update = Bar.update

    def noted(self: Bar, done: int, note: str = "") -> None:
        seen.append((done, self.total, note))
        update(self, done, note)

    monkeypatch.setattr(Bar, "update", noted)
    return seen


def as_first_of(processes: int, patch: pytest.MonkeyPatch) -> None:
    """This process is the first of so many, of which the others say nothing."""
    patch.setattr(jax, "process_count", lambda: processes)
    patch.setattr(parallel, "gather", lambda value: [value])


@pytest.mark.parametrize(
    ("episodes", "finished", "steps", "running", "expected"),
    [
        (10, 0, 0, 0, 1000),
        (10, 0, 0, 300, 1000),
        (10, 2, 100, 0, 500),
        (10, 2, 100, 90, 500),
        (4, 0, 0, 390, 490),
        (4, 0, 0, 1000, 1100),
        (4, 4, 77, 0, 77),
        (0, 0, 0, 0, 0),
    ],
)
def test_steps_are_expected_from_those_of_finished_episodes(
    episodes: int, finished: int, steps: int, running: int, expected: int
) -> None:
    """100 each until one has finished; an episode that lasts longer is expected to go on for a quarter of it."""
    assert expected_steps(episodes, 100, finished, steps, running) == expected


def test_a_bar_moves_before_the_first_episode_ends_and_what_is_left_only_falls(shown: list[Shown]) -> None:
    with Lanes(POOL, 4, print, backend="pool") as lanes:
        driver = ScriptedDriver(load_task(POOL).policy("centre"))
        scoring.play(lanes, driver, range(6), Screen(), Interrupt(), "centre", None)
    before = [done for done, _, note in shown if note == "episode 0/6"]
    assert before == sorted(before) and before[-1] >= 4 * 78, "four episodes of 80 steps are being played"
    left = [total - done for done, total, _ in shown]
    assert left == sorted(left, reverse=True) and left[0] >= 6 * 80 - 4 and left[-1] == 0
    assert shown[-1] == (6 * 80, 6 * 80, "episode 6/6")


def runner_returns(here: Context, stack: ExitStack, shows: list[tuple[float, str]]) -> tuple[np.ndarray, int]:
    """The returns of validation episodes (this process's), and the lanes of a group."""
    agent = Agent(here.models.world, here.models.actor)
    runner = playing.EpisodeRunner(here, here.stage("controller", 0), agent, load_world(here, 0))
    runner.attach(cast(Bar, SimpleNamespace()))
    validation = playing.Validation(here, here.experiment.evolve, runner, stack)
    table = jax.tree.map(lambda leaf: np.stack([leaf]), load_controller(here, 0)[0])
    episodes = [(500 + i, 0) for i in range(EPISODES)]
    found = runner.returns(
        "validation", 1, validation.lanes, table, episodes, lambda bar, done, words: shows.append((done, words))
    )
    return found, validation.lanes.size


def test_episodes_have_the_same_bits_in_one_process_and_in_a_share_of_three(
    here: Context, experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shows: list[tuple[float, str]] = []
    with ExitStack() as stack:
        whole, size = runner_returns(here, stack, shows)
        others = prepared(experiment, tmp_path / "three", Interrupt())
        as_first_of(3, monkeypatch)
        share, size_of_three = runner_returns(others, stack, [])
    assert size == size_of_three == ENVIRONMENTS // 2
    assert share.tobytes() == whole[::3].tobytes() and len(set(whole.tolist())) > 3
    done = [done for done, _ in shows]
    first = [(done, words) for done, words in shows if words.startswith(f"0/{EPISODES} episodes, ")]
    assert 0 < first[-1][0] < EPISODES, "it counts steps before an episode has ended"
    assert done[-1] == EPISODES and shows[-1][1].startswith(f"{EPISODES}/{EPISODES} episodes, ")


class Enough(Exception):
    pass


@pytest.mark.parametrize("processes", [1, 4])
def test_how_many_lanes_there_are_hangs_on_the_settings_alone(
    processes: int, here: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []

    def noted(task: str, count: int, *rest: Any, **options: Any) -> Lanes:
        counts.append(count)
        raise Enough

    for module in (scoring, collecting):
        monkeypatch.setattr(module, "Lanes", noted)
    agent, experiment = Agent(here.models.world, here.models.actor), here.experiment
    weights, params = load_controller(here, 0)[0], load_world(here, 0)
    bundle = cast(Any, SimpleNamespace(agent=agent, params=params, weights=weights, experiment=experiment))
    once = dataclasses.replace(experiment, rounds=dataclasses.replace(experiment.rounds, count=1))
    works: list[Callable[[], Any]] = [
        lambda: scoring.Evaluate().run(dataclasses.replace(here, experiment=once), 0, here.stage("evaluation", 0)),
        lambda: collecting.Collect().run(here, 1, here.stage("rollouts", 1)),
        *(lambda n=n: scoring.score_bundle(bundle, n, 2_000_000, Screen()) for n in (2, 100)),
    ]
    as_first_of(processes, monkeypatch)
    for work in works:
        with pytest.raises((Enough, parallel.SharedError)):
            work()
    assert counts == [ENVIRONMENTS] * 4


def test_a_collection_with_C_counts_frames_and_goes_on_where_it_was_stopped(
    here: Context, experiment: Experiment, tmp_path: Path, shown: list[Shown]
) -> None:
    def record(found: Context) -> Path:
        collecting.Collect().run(found, 1, found.stage("rollouts", 1))
        return found.stage("rollouts", 1).path / "episodes"

    whole = record(here)
    frames = shown[-1][0]
    assert shown[-1] == (frames, frames, f"episode {EPISODES}/{EPISODES}")
    assert max(done for done, _, note in shown if note == f"episode 0/{EPISODES}") > ENVIRONMENTS
    first, stops = 0, 0
    while True:
        shown.clear()
        try:
            stopped = record(prepared(experiment, tmp_path / "stopped", Impatient(130)))
            break
        except Stopped:
            stops += 1
            assert stops < 9
            assert shown[0][0] >= first, "what an earlier run has recorded counts"
            first = shown[0][0]
    assert stops > 0
    assert {p.name: p.read_bytes() for p in stopped.iterdir()} == {p.name: p.read_bytes() for p in whole.iterdir()}
