"""The experiments as they stand in their files: the paper's models to the last weight, and settings that go together."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import pytest

from wm_jax.actors import protocol as actors
from wm_jax.dream.starts import FIRSTS, SPACING
from wm_jax.errors import UserError
from wm_jax.experiment import Experiment, load
from wm_jax.models import Models
from wm_jax.pipeline.bundle import load_initial, load_initial_actor
from wm_jax.pipeline.checking import check
from wm_jax.pipeline.info import describe, recorded_episodes, recorded_frames
from wm_jax.worlds.vision_memory import VisionMemoryConfig

FOLDER = Path(__file__).parents[2] / "experiments"


def counts(experiment: Experiment) -> tuple[int, int, int]:
    """Parameters of V, M and C."""
    models = Models(experiment)
    trees = (models.state_shapes[0][name] for name in ("vision", "memory"))
    vision, memory = (sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in trees)
    return vision, memory, actors.size(models.actor)


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
    for features, hidden, size in ((("z",), (), 3 * 32 + 3), (("z",), (40,), 1443), (("z", "h"), (), 867)):
        changed = replace(found, actor=replace(found.actor, features=features, hidden_sizes=hidden))
        assert counts(changed) == (4_348_547, 422_368, size)
    assert isinstance(found.world, VisionMemoryConfig)
    untrained = replace(found, world=replace(found.world, memory=replace(found.world.memory, steps=0)))
    assert counts(untrained) == counts(found)


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.py")), ids=lambda path: path.stem)
def test_settings_go_together_and_the_bundle_to_begin_with_fits(path: Path) -> None:
    found = load(path)
    if "envpool" in (found.collect.backend, found.evolve.backend, found.tune.backend, found.evaluate.backend):
        pytest.importorskip("envpool")
    check(found, Models(found))
    if found.initial is not None:
        load_initial(Path(found.initial), found)
        if found.initial_actor:
            load_initial_actor(Path(found.initial), found)


def test_a_world_model_without_weights_is_told() -> None:
    facts = describe(load(FOLDER / "swing_up_state.py"))
    assert facts["parameters"] == {"controller": 5 * 10 + 10 + 10 + 1}
    assert facts["work"]["encoding"] == 0 and facts["disk"]["checkpoints"] == 0


def test_what_a_frame_and_a_dream_step_take_is_counted() -> None:
    """By the compiler: two for each multiplication in a product of matrices, and the little that is none."""
    work = describe(load(FOLDER / "car_racing.py"))["work"]
    # Of V's encoder, outputs × inputs of each convolution of 4 × 4, then the mean and the variance of 32 numbers. On a CPU
    # the first three multiply windows, of which there is one row more than of outputs.
    layers = 32 * 31 * 32 * 3 + 15 * 14 * 64 * 32 + 7 * 6 * 128 * 64 + 2**2 * 256 * 128
    assert work["encoding a frame"] == pytest.approx(2 * (16 * layers + 1024 * 2 * 32), rel=0.01)
    assert work["a dream step"] == pytest.approx(2 * 422_368, rel=0.01)


def test_evolution_in_the_actual_environment_is_told_as_such() -> None:
    facts = describe(load(FOLDER / "car_racing.py"))
    assert facts["shapes"]["rollouts of a generation"] == [64, 16]
    # Every step of an episode costs one of M and what V takes to encode a frame.
    one = facts["work"]["a dream step"] + facts["work"]["encoding a frame"]
    assert facts["work"]["acting in a generation at most"] == 64 * 16 * 1000 * one
    # 1800 generations, and 1024 episodes for each of the 72 evaluated means.
    assert facts["work"]["acting in the search at most"] == (1800 * 64 * 16 + 72 * 1024) * 1000 * one
    small = describe(load(FOLDER / "car_racing_cpu.py"))
    assert small["work"]["acting in a generation at most"] == 32 * 2 * 500 * one
    assert small["work"]["acting in the search at most"] == (24 * 32 * 2 * 500 + 3 * 16 * 1000) * one


def test_tuning_is_told_where_there_is_some() -> None:
    facts = describe(load(FOLDER / "car_racing_tuned.py"))
    one = facts["work"]["a dream step"] + facts["work"]["encoding a frame"]
    # Validated are what it goes on from and five means.
    assert facts["work"]["acting in the tuning at most"] == (50 * 32 * 2 + 6 * 32) * 1000 * one
    assert "acting in the tuning at most" not in describe(load(FOLDER / "car_racing_dream_rounds.py"))["work"]


def test_episodes_that_a_policy_learns_from_are_counted_and_no_dreams() -> None:
    """Four grey frames at each of 125 decisions in 8 episodes, twice, beside 16 lanes of 250 frames in colour."""
    found = load(FOLDER / "acting" / "swing_up_pixels.py")
    memory, models = describe(found)["device memory"], Models(found)
    search = models.search(found.evolve.generations)
    episodes = 4 * 2 * 8 * 125 * (4 * 64 * 64 + 1) + 16 * 250 * 64 * 64 * 3
    assert memory["searches side by side"] == 3 * (search.bytes_at_rest() + episodes)
    assert memory["states that dreams start in"] == 0


def test_the_explorers_search_is_told_where_there_is_one() -> None:
    work = describe(load(FOLDER / "swing_up_curiosity.py"))["work"]
    # In each round but the last: 200 generations of 512 dreams, and 256 dreams for both evaluated candidates.
    steps = 3 * (200 * 16 * 512 + 2 * 256 * 250)
    assert work["acting in the explorer's search at most"] == steps * work["a dream step"]
    assert "acting in the explorer's search at most" not in describe(load(FOLDER / "swing_up.py"))["work"]


def test_the_states_that_dreams_start_in_are_counted() -> None:
    """C is scored on first frames, and learns anywhere in 1,024 episodes; a state is z, h, c and whether M begins."""
    found = load(FOLDER / "take_cover_gradient.py")
    episodes, frames = recorded_episodes(found), recorded_frames(found, Models(found))
    rows = max(FIRSTS, episodes) + round(1024 * frames / episodes / SPACING)
    assert describe(found)["device memory"]["states that dreams start in"] == 4 * rows * (64 + 2 * 256 + 1)


def test_encoded_frames_are_counted_with_the_padded_copy_that_training_holds() -> None:
    """16-bit means and variances of z, the action and the reward of each frame and of its mirror image."""
    found = load(FOLDER / "quickstart.py")
    frames = 2 * recorded_frames(found, Models(found))
    copied = 2 ** math.ceil(math.log2(frames))
    told = describe(found)["device memory"]["encoded frames on the device"]
    assert told == (frames + copied) * (2 * 2 * 16 + 4 * 2)
    # Without learners there is no copy.
    facts = describe(load(FOLDER / "swing_up_state.py"))
    assert facts["device memory"]["encoded frames on the device"] == facts["disk"]["encoded frames"] > 0


def test_evolution_in_the_dream_is_told_with_its_validation() -> None:
    work = describe(load(FOLDER / "car_racing_quickstart.py"))["work"]
    actual = work["a dream step"] + work["encoding a frame"]
    mean = 256 * 300 * work["a dream step"] + 6 * 1000 * actual
    # Two rounds of 30 generations, with six evaluated means each.
    assert work["acting in the search at most"] == 2 * (30 * work["acting in a generation at most"] + 6 * mean)


@pytest.mark.parametrize(
    ("part", "settings", "told"),
    [
        ("collect", {"backend": "inf"}, r"collect\.backend must be one of"),
        ("collect", {"policy": "wise"}, r"collect\.policy must be one of"),
        ("evolve", {"temperatures": (0.3,)}, r"is not among evolve\.temperatures"),
        ("evaluate", {"rounds": (1,)}, r"evaluate\.rounds names round 1, but .* rounds\.count is 1"),
    ],
)
def test_what_a_run_would_refuse_is_refused(part: str, settings: dict[str, Any], told: str) -> None:
    experiment = load(FOLDER / "take_cover.py")
    wrong = replace(experiment, **{part: replace(getattr(experiment, part), **settings)})
    with pytest.raises(UserError, match=told):
        describe(wrong)
