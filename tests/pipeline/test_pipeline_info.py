"""The experiments as they stand in their files: the paper's models to the last weight, and settings that go together."""

from dataclasses import replace
from pathlib import Path

import jax
import pytest

from wm_jax.experiment import Experiment, load
from wm_jax.pipeline import check
from wm_jax.pipeline.context import Models
from wm_jax.pipeline.info import describe

FOLDER = Path(__file__).parents[2] / "experiments"


def counts(experiment: Experiment) -> tuple[int, int, int]:
    """Parameters of V, M and C."""
    models = Models(experiment)
    trees = [jax.eval_shape(model.init, jax.random.key(0)) for model in (models.vision, models.memory)]
    vision, memory = (sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in trees)
    return vision, memory, models.controller.size


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("take_cover", (4_446_915, 1_678_785, 1088)),
        # One more output of M: the reward.
        ("car_racing_dream", (4_348_547, 422_368 + 257, 867)),
        ("car_racing_dream_cpu", (4_348_547, 422_368 + 257, 867)),
        ("car_racing_dream_rounds", (4_348_547, 422_368 + 257, 867)),
        ("car_racing_tuned", (4_348_547, 422_368 + 257, 867)),
        ("car_racing", (4_348_547, 422_368, 867)),
        ("car_racing_cpu", (4_348_547, 422_368, 867)),
        # M half as wide: 4 * 256 * (66 + 256 + 1) in the LSTM and 961 * (256 + 1) in the head.
        ("take_cover_cpu", (4_446_915, 577_729, 64 + 2 * 256)),
        ("take_cover_rounds", (4_446_915, 577_729, 64 + 2 * 256)),
    ],
)
def test_parameters_are_the_papers(name: str, expected: tuple[int, int, int]) -> None:
    assert counts(load(FOLDER / f"{name}.py")) == expected


@pytest.mark.parametrize("name", ["car_racing", "car_racing_cpu"])
def test_the_papers_other_controllers_are_flags_away(name: str) -> None:
    """As the experiment's docstring has them."""
    found = load(FOLDER / f"{name}.py")
    for features, hidden, size in (("z", 0, 3 * 32 + 3), ("z", 40, 1443), ("zh", 0, 867)):
        changed = replace(found, controller=replace(found.controller, features=features, hidden_size=hidden))
        assert counts(changed) == (4_348_547, 422_368, size)
    untrained = replace(found, memory=replace(found.memory, steps=0))
    assert counts(untrained) == counts(found)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_settings_go_together(path: Path) -> None:
    found = load(path)
    if "envpool" in (found.collect.backend, found.evolve.backend, found.tune.backend):
        pytest.importorskip("envpool")
    check(found, Models(found))


def test_evolution_in_the_actual_environment_is_told_as_such() -> None:
    facts = describe(load(FOLDER / "car_racing.py"))
    assert facts["shapes"]["episodes of a generation"] == [64, 16]
    step = 2 * 422_368
    # Every step of an episode costs one of M and half of what V takes to encode and decode a frame.
    one = step + facts["work"]["one frame through V"] // 2
    assert facts["work"]["a generation at most"] == 64 * 16 * 1000 * one
    # 1800 generations, and 1024 episodes for each of the 72 evaluated means.
    assert facts["work"]["evolution at most"] == (1800 * 64 * 16 + 72 * 1024) * 1000 * one
    small = describe(load(FOLDER / "car_racing_cpu.py"))
    assert small["work"]["a generation at most"] == 32 * 2 * 500 * one
    assert small["work"]["evolution at most"] == (24 * 32 * 2 * 500 + 3 * 16 * 1000) * one


def test_tuning_is_told_where_there_is_some() -> None:
    facts = describe(load(FOLDER / "car_racing_tuned.py"))
    one = facts["work"]["one step of M (a dream step)"] + facts["work"]["one frame through V"] // 2
    assert facts["work"]["tuning at most"] == (50 * 32 * 2 + 5 * 32) * 1000 * one
    assert "tuning at most" not in describe(load(FOLDER / "car_racing_dream_rounds.py"))["work"]


def test_evolution_in_the_dream_is_told_with_its_validation() -> None:
    work = describe(load(FOLDER / "quickstart.py"))["work"]
    actual = work["one step of M (a dream step)"] + work["one frame through V"] // 2
    mean = 256 * 300 * work["one step of M (a dream step)"] + 6 * 1000 * actual
    # Two rounds of 30 generations, with six evaluated means each.
    assert work["evolution at most"] == 2 * (30 * work["a generation at most"] + 6 * mean)
