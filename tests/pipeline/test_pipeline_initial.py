"""A run that begins with another's V and M: as they are, or to train them on."""

import dataclasses
from pathlib import Path
from typing import Any

import format_1
import jax
import numpy as np
import pytest

from wm_jax import optimizers
from wm_jax.actors.mlp import MLPConfig
from wm_jax.data.files import sha256
from wm_jax.data.observations import build
from wm_jax.data.observations import save as save_observations
from wm_jax.data.records import Episode, write_episode, write_index
from wm_jax.data.weights import load_weights, save_weights
from wm_jax.errors import UserError
from wm_jax.experiment import Experiment, load, with_paths_from
from wm_jax.formats import FORMAT
from wm_jax.models import Models
from wm_jax.pipeline.bundle import Bundle, load_initial, load_initial_actor
from wm_jax.pipeline.bundle import load as load_bundle
from wm_jax.pipeline.context import Context
from wm_jax.pipeline.plan import stages, stale
from wm_jax.pipeline.progress import Interrupt, Screen
from wm_jax.pipeline.running import run_experiment
from wm_jax.pipeline.stored import Stored
from wm_jax.pipeline.weights import ENCODED, WEIGHTS, load_candidates
from wm_jax.pretrained import bundles
from wm_jax.run import RunDir
from wm_jax.search.cma_es import CMAESConfig
from wm_jax.types import Observations, Params
from wm_jax.worlds.vision_memory import VisionMemoryConfig
from wm_jax.worlds.vision_rssm import VisionRSSMConfig

pytestmark = [pytest.mark.whole, pytest.mark.usefixtures("quick_compilation")]

LEARNERS = ("vision", "memory")


def changed(experiment: Experiment, **settings: dict[str, Any]) -> Experiment:
    """The experiment with these other settings of V and M."""
    world = experiment.world
    assert isinstance(world, VisionMemoryConfig)
    parts = {name: dataclasses.replace(getattr(world, name), **new) for name, new in settings.items()}
    return dataclasses.replace(experiment, world=dataclasses.replace(world, **parts))


def small(probe_experiment: Path, initial: Path | None = None, steps: int = 0) -> Experiment:
    """The probe experiment on few episodes, with these steps of V and M."""
    experiment = changed(load(probe_experiment), **{name: {"steps": steps} for name in LEARNERS})
    collect = dataclasses.replace(experiment.collect, episodes=60)
    return dataclasses.replace(experiment, collect=collect, initial=None if initial is None else str(initial))


def blank(models: Models, lengths: list[int]) -> Observations:
    """Episodes in which V sees nothing."""
    frames = sum(lengths)
    encoded = jax.tree.map(lambda leaf: np.zeros((frames, *leaf.shape)), models.state_shapes[1])
    action = np.zeros((frames, models.world.action_size))
    return build(encoded, action, np.zeros(frames), np.array(lengths), np.zeros(len(lengths), bool))


@pytest.fixture(scope="module")
def bundle(probe_experiment: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Params]:
    """A file with V and M of other random weights than those that a run of the probe experiment begins with. It lies apart
    from its task's."""
    experiment = load(probe_experiment)
    models = Models(experiment)
    params = models.world.init(jax.random.key(99))
    weights = jax.tree.map(np.zeros_like, models.actor.init(jax.random.key(0)))
    path = tmp_path_factory.mktemp("bundles") / "other.safetensors"
    Bundle(Stored(experiment, FORMAT), params, weights, blank(models, [1]), {}).save(path)
    return path, params


def trained(experiment: Experiment, folder: Path) -> Params:
    """V and M of the experiment's first round."""
    run_experiment(experiment, folder, ("collect", "vision", "encode", "memory"), False, None, Screen())
    return {name: load_weights(folder / name / "round-0" / WEIGHTS)[0] for name in LEARNERS}


def episode(length: int) -> Episode:
    frames, actions = np.zeros((length, 64, 64, 3), np.uint8), np.zeros((length, 1), np.float32)
    return Episode(frames=frames, actions=actions, rewards=np.zeros(length, np.float32), terminated=False, seed=0,
                   task="probe")  # fmt: skip


def largest_difference(one: Params, other: Params) -> dict[str, float]:
    """Of V's and of M's weights."""
    difference = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max()), one, other)
    return {name: max(jax.tree.leaves(difference[name])) for name in LEARNERS}


def test_without_training_V_and_M_are_those_of_the_bundle(
    probe_experiment: Path, bundle: tuple[Path, Params], tmp_path: Path
) -> None:
    path, params = bundle
    found = trained(small(probe_experiment, path), tmp_path / "run")
    assert largest_difference(found, params) == {"vision": 0.0, "memory": 0.0}
    fresh = trained(small(probe_experiment), tmp_path / "fresh")
    assert min(largest_difference(fresh, params).values()) > 0.1, "random weights are others"


def test_a_bundle_counts_by_its_contents_and_is_needed_where_a_training_is_to_begin(
    probe_experiment: Path, bundle: tuple[Path, Params], tmp_path: Path
) -> None:
    """It may move, and once V and M are there it may be gone."""
    path, params = bundle
    trained(small(probe_experiment, path), tmp_path / "run")
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(path.read_bytes())
    experiment = small(probe_experiment, moved)
    assert stale(experiment, RunDir(tmp_path / "run")) == []
    (tmp_path / "run" / "memory" / "round-0" / WEIGHTS).unlink()
    assert largest_difference(trained(experiment, tmp_path / "run"), params) == {"vision": 0.0, "memory": 0.0}
    moved.unlink()
    trained(experiment, tmp_path / "run")
    (tmp_path / "run" / "memory" / "round-0" / WEIGHTS).unlink()
    with pytest.raises(UserError, match=r"moved\.safetensors does not exist"):
        trained(experiment, tmp_path / "run")


def test_training_goes_on_from_the_bundle(probe_experiment: Path, bundle: tuple[Path, Params], tmp_path: Path) -> None:
    """Adam's first step is the learning rate in each weight that has a gradient."""
    path, params = bundle
    found = trained(small(probe_experiment, path, steps=1), tmp_path)
    world = load(probe_experiment).world
    for name, difference in largest_difference(found, params).items():
        assert difference == pytest.approx(getattr(world, name).optimizer.learning_rate, rel=0.01), name


def test_another_bundle_makes_V_and_M_stale(
    probe_experiment: Path, bundle: tuple[Path, Params], tmp_path: Path
) -> None:
    experiment = small(probe_experiment, bundle[0])
    trained(experiment, tmp_path)
    reasons = {
        str(step): reason for step, reason in stale(dataclasses.replace(experiment, initial=None), RunDir(tmp_path))
    }
    assert list(reasons) == ["vision (round 0)", "encode (round 0)", "memory (round 0)"]
    assert reasons["vision (round 0)"] == f"initial was 'sha256:{sha256(bundle[0])}', now None"


def test_what_cannot_be_begun_with_is_said_before_anything_runs(
    probe_experiment: Path, bundle: tuple[Path, Params], tmp_path: Path
) -> None:
    missing = small(probe_experiment, tmp_path / "nothing.safetensors")
    wider = changed(small(probe_experiment, bundle[0]), memory={"hidden_size": 48})
    misfit = r"other\.safetensors does not fit.*memory/gates/bias expected float32\[192\]"
    for wrong, message in ((missing, r"nothing\.safetensors does not exist"), (wider, misfit)):
        with pytest.raises(UserError, match=message):
            run_experiment(wrong, tmp_path / "run", (), False, None, Screen())
    assert not (tmp_path / "run" / "rollouts").exists()


@pytest.mark.parametrize("half", [False, True])
def test_weights_of_any_precision_and_format_are_begun_with(
    half: bool, probe_experiment: Path, bundle: tuple[Path, Params], tmp_path: Path
) -> None:
    """Format 1 had V and M at the top."""
    experiment = small(probe_experiment, bundle[0])
    whole, path = load_bundle(bundle[0], Path(experiment.task)), tmp_path / "begin.safetensors"
    whole.save(path, half)
    expected = jax.tree.map(lambda leaf: np.float32(np.float16(leaf)) if half else leaf, bundle[1])
    assert largest_difference(load_initial(path, experiment), expected) == {"vision": 0.0, "memory": 0.0}
    format_1.make_bundle(path, experiment.task)
    assert largest_difference(load_initial(path, experiment), expected) == {"vision": 0.0, "memory": 0.0}


def test_an_M_whose_numbers_mean_something_else_is_refused(
    probe_experiment: Path, bundle: tuple[Path, Params], tmp_path: Path
) -> None:
    """A loss for rewards changes no size, nor does the weight of ends."""
    experiment = small(probe_experiment, bundle[0])
    for settings, message in (
        ({"reward_loss": "poisson"}, r"where world\.memory\.reward_loss is 'squared', but here it is 'poisson'"),
        ({"done_weight": 5.0}, r"where world\.memory\.done_weight is 10\.0, but here it is 5\.0"),
    ):
        with pytest.raises(UserError, match=message):
            load_initial(bundle[0], changed(experiment, memory=settings))
    with pytest.raises(UserError, match=r"a folder; give a bundle: `wm-jax export"):
        load_initial(tmp_path, experiment)


def written_task(folder: Path, file: str, name: str = "probe", more: str = "") -> str:
    """The path of a file with the probe task, of this name and with `more` at its end."""
    text = (Path(__file__).parents[1] / "probe_task.py").read_text()
    assert text.count('name="probe"') == 1
    (folder / file).write_text(text.replace('name="probe"', f'name="{name}"') + more)
    return str(folder / file)


def test_V_and_M_of_another_task_are_refused(
    probe_experiment: Path, bundle: tuple[Path, Params], tmp_path: Path
) -> None:
    """A task is what it calls itself: its sizes do not tell, its file may be moved, and edited with a warning."""
    experiment, told = small(probe_experiment, bundle[0]), []

    def begun(path: Path, task: str) -> None:
        load_initial(path, dataclasses.replace(experiment, task=task), told.append)

    same, changed = written_task(tmp_path, "moved.py"), written_task(tmp_path, "edited.py", more="\nX = 1\n")
    other = written_task(tmp_path, "probe_task.py", name="upside_down")
    begun(bundle[0], same)
    assert told == []
    begun(bundle[0], changed)
    assert told.pop().startswith(f"{changed} defines its task differently than when {bundle[0]} was made")
    with pytest.raises(
        UserError,
        match=r"other\.safetensors was made for the task probe, but here it is upside_down, of .*probe_task\.py: frames",
    ):
        begun(bundle[0], other)
    with pytest.raises(
        UserError, match=r"for the task probe, but here it is car_racing: .*; use a bundle for this task"
    ):
        begun(bundle[0], "car_racing")
    with pytest.raises(UserError, match=r"for the task take_cover, but here it is probe, of .*moved\.py"):
        begun(Path(__file__).parents[2] / "wm_jax" / "pretrained" / "take_cover.safetensors", same)
    assert told == []


def test_where_a_tasks_name_was_not_stored_its_file_tells(
    probe_experiment: Path, bundle: tuple[Path, Params], tmp_path: Path
) -> None:
    """As in format 1, which has no digests, and in the first bundles of format 2."""
    experiment, old = small(probe_experiment, bundle[0]), tmp_path / "old.safetensors"
    tree, about = load_weights(bundle[0])
    del about["config"]["task_name"]
    save_weights(old, tree, about)
    same, edited = written_task(tmp_path, "moved.py"), written_task(tmp_path, "probe_task.py", more="\nX = 1\n")
    for task in (same, edited):
        load_initial(old, dataclasses.replace(experiment, task=task))
    other = written_task(tmp_path, "edited.py", more="\nX = 1\n")
    with pytest.raises(UserError, match=r"made for the task probe_task\.py, but here it is probe, of .*edited\.py"):
        load_initial(old, dataclasses.replace(experiment, task=other))
    format_1.make_bundle(old, "/gone/probe_task.py")
    load_initial(old, dataclasses.replace(experiment, task=edited))
    for task in (same, "take_cover"):
        with pytest.raises(UserError, match=r"made for the task probe_task\.py, but here it is"):
            load_initial(old, dataclasses.replace(experiment, task=task))


def test_a_relative_path_is_taken_from_the_experiment(tmp_path: Path) -> None:
    path = tmp_path / "experiments" / "mine.py"
    path.parent.mkdir()
    path.write_text('from wm_jax.experiment import Experiment\nCONFIG = Experiment(initial="../one.safetensors")\n')
    assert load(path).initial == str(tmp_path / "one.safetensors")


def test_a_bundle_does_not_tell_where_the_one_before_it_lay(
    probe_experiment: Path, bundle: tuple[Path, Params], tmp_path: Path
) -> None:
    task = Path(load(probe_experiment).task)
    whole = load_bundle(bundle[0], task)
    experiment = dataclasses.replace(whole.experiment, initial=str(bundle[0]))
    dataclasses.replace(whole, stored=Stored(experiment, FORMAT)).save(tmp_path / "next.safetensors")
    assert str(bundle[0].parent).encode() not in (tmp_path / "next.safetensors").read_bytes()
    assert load_bundle(tmp_path / "next.safetensors", task).experiment.initial == "other.safetensors"


def test_a_schedule_lasts_as_long_as_its_rounds_training(
    probe_experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the optimiser is told when a second round is trained, of which all else is made up."""
    experiment = changed(small(probe_experiment, steps=600), vision={"later_steps": 2}, memory={"later_steps": 3})
    rounds = dataclasses.replace(experiment.rounds, count=2, episodes=2)
    collect = dataclasses.replace(experiment.collect, episodes=2)
    experiment = dataclasses.replace(experiment, collect=collect, rounds=rounds)
    models, run = Models(experiment), RunDir(tmp_path)
    context = Context(experiment, models, run, Screen(), Interrupt())
    with run.locked():
        run.prepare({}, tensorboard=False)
    for number in range(2):
        folder = context.stage("rollouts", number).path / "episodes"
        folder.mkdir(parents=True)
        write_index(folder, [write_episode(folder, i, episode(640)) for i in range(2)])
    for name, params in models.world.init(jax.random.key(0)).items():
        save_weights(context.stage(name, 0).path / WEIGHTS, params, {})
    save_observations(context.stage("latents", 1).path / ENCODED, blank(models, [640] * 4))
    told, make = [], optimizers.make
    monkeypatch.setattr(optimizers, "make", lambda config, steps: told.append(steps) or make(config, steps))
    for train in stages(experiment):
        if train.name in LEARNERS:
            stage = context.stage(train.folder, 1)
            stage.begin({}, {})
            train.run(context, 1, stage)
            assert set(told) == {{"vision": 2, "memory": 3}[train.name]}, train.name
            told.clear()


def test_only_the_learners_that_are_named_begin_with_the_bundle(
    probe_experiment: Path, bundle: tuple[Path, Params], tmp_path: Path
) -> None:
    """Then M may be another one altogether."""
    path, params = bundle
    experiment = dataclasses.replace(small(probe_experiment, path), initial_learners=("vision",))
    experiment = changed(experiment, memory={"hidden_size": 48})
    found = load_initial(path, experiment)
    assert list(found) == ["vision"]
    jax.tree.map(np.testing.assert_array_equal, found["vision"], params["vision"])
    weights = trained(experiment, tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, weights["vision"], params["vision"])
    assert weights["memory"]["head"]["kernel"].shape[0] == 48
    without = dataclasses.replace(experiment, initial=None)
    with pytest.raises(UserError, match=r"initial_learners names vision but initial is None"):
        trained(without, tmp_path / "without")
    with pytest.raises(UserError, match=r"initial_learners"):
        trained(dataclasses.replace(experiment, initial_learners=("eyes",)), tmp_path / "unknown")


def test_a_search_starts_from_the_bundles_C(
    probe_experiment: Path, bundle: tuple[Path, Params], tmp_path: Path
) -> None:
    """With steps as small as these the search stays where it starts, which is generation 0. Format 1 stores C's weights in
    one array."""
    experiment = small(probe_experiment, bundle[0])
    whole, path = load_bundle(bundle[0], Path(experiment.task)), tmp_path / "begin.safetensors"
    weights = jax.tree.map(
        lambda leaf: np.linspace(-1, 1, leaf.size, dtype=np.float32).reshape(leaf.shape), whole.weights
    )
    dataclasses.replace(whole, weights=weights).save(path)
    experiment = dataclasses.replace(
        experiment, initial=str(path), initial_actor=True, search=CMAESConfig(population=4, rollouts=2, sigma=1e-6),
        evolve=dataclasses.replace(experiment.evolve, generations=1, evaluation_rollouts=2, actual_episodes=0),
    )  # fmt: skip
    stages = ("collect", "vision", "encode", "memory", "evolve")
    run_experiment(experiment, tmp_path / "run", stages, False, None, Screen())
    context = Context(experiment, Models(experiment), RunDir(tmp_path / "run"), Screen(), Interrupt())
    candidates = load_candidates(context, 0)
    assert jax.tree.leaves(candidates)[0].shape[0] == 2
    jax.tree.map(lambda found, begin: np.testing.assert_array_equal(found[0], begin), candidates, weights)
    jax.tree.map(lambda found, begin: np.testing.assert_allclose(found[1], begin, atol=1e-4), candidates, weights)
    format_1.make_bundle(path, experiment.task)
    jax.tree.map(np.testing.assert_array_equal, load_initial_actor(path, experiment), weights)


def test_a_C_of_another_kind_is_refused(probe_experiment: Path, bundle: tuple[Path, Params], tmp_path: Path) -> None:
    experiment = dataclasses.replace(small(probe_experiment, bundle[0]), initial_actor=True)
    for wrong, message in (
        (dataclasses.replace(experiment, initial=None), r"initial_actor is True but initial is None"),
        (dataclasses.replace(experiment, actor=MLPConfig(features=("z",))), r"where actor\.features is .* here it is"),
    ):
        with pytest.raises(UserError, match=message):
            run_experiment(wrong, tmp_path / "run", (), False, None, Screen())
    assert not (tmp_path / "run" / "rollouts").exists()


def test_a_part_begins_another_kind_of_world_model(probe_experiment: Path, bundle: tuple[Path, Params]) -> None:
    """V is the same part of `vision_memory` and `vision_rssm`."""
    path, params = bundle
    experiment = small(probe_experiment, path)
    assert isinstance(experiment.world, VisionMemoryConfig)
    world = VisionRSSMConfig(vision=experiment.world.vision)
    experiment = dataclasses.replace(experiment, world=world, actor=MLPConfig(features=("deterministic",)))
    with pytest.raises(UserError, match=r"where world\.kind is 'vision_memory', but here it is 'vision_rssm'"):
        load_initial(path, experiment)
    found = load_initial(path, dataclasses.replace(experiment, initial_learners=("vision",)))
    assert list(found) == ["vision"]
    jax.tree.map(np.testing.assert_array_equal, found["vision"], params["vision"])
    with pytest.raises(UserError, match=r"holds memory, vision but no rssm; leave it out of initial_learners"):
        load_initial(path, dataclasses.replace(experiment, initial_learners=("vision", "rssm")))


def test_a_shipped_agent_is_named_and_a_file_of_that_name_comes_first(tmp_path: Path) -> None:
    experiment = Experiment(initial="swing_up")
    assert with_paths_from(experiment, tmp_path).initial == str(bundles()["swing_up"])
    (tmp_path / "swing_up").touch()
    assert with_paths_from(experiment, tmp_path).initial == str(tmp_path / "swing_up")
