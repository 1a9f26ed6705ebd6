"""What earlier versions wrote, and the flags that they had, mean what they meant; files count by what is in them."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import format_1
import numpy as np
import pytest

from wm_jax import cli, formats
from wm_jax.actors import protocol as actors
from wm_jax.actors.mlp import MLP, MLPConfig
from wm_jax.data.weights import load_weights, save_weights
from wm_jax.errors import UserError
from wm_jax.experiment import Experiment, digests, from_dict, identity, load, to_dict
from wm_jax.pipeline import bundle
from wm_jax.pipeline.plan import choose, plan, stale
from wm_jax.pipeline.progress import Screen
from wm_jax.pipeline.reporting import report
from wm_jax.pipeline.running import run_experiment
from wm_jax.pipeline.stored import of_run, to_store
from wm_jax.pipeline.weights import controller_like
from wm_jax.run import RunDir
from wm_jax.search.policy_gradient import PolicyGradientConfig

PRETRAINED = Path(__file__).parents[2] / "wm_jax" / "pretrained"


@pytest.fixture(scope="module")
def experiments(probe_experiment: Path) -> dict[str, Experiment]:
    """What the runs in `format_1.json` are of, by search."""
    probe = load(probe_experiment)
    evolve = dataclasses.replace(probe.evolve, generations=40)
    learning = dataclasses.replace(probe, search=PolicyGradientConfig(), evolve=evolve)
    return {"cma_es": probe, "policy_gradient": learning}


def finish(path: Path, experiment: Experiment) -> RunDir:
    """A run whose stages are all marked finished."""
    run = RunDir(path)
    with run.locked():
        run.prepare(to_store(experiment), tensorboard=False)
    for step in plan(experiment):
        step.folder(run).begin(step.settings(experiment), {})
        step.folder(run).finish({})
    return run


def finish_format_1(path: Path, experiment: Experiment, old: dict[str, Any]) -> RunDir:
    """The same as an earlier version marked them."""
    run = finish(path, experiment)
    (run.path / "config.json").write_text(json.dumps(old["config"]))
    for step in plan(experiment):
        record = {"settings": old["records"][step.stage.folder], "finished": True, "summary": {}}
        (step.folder(run).path / "stage.json").write_text(json.dumps(record))
    return run


@pytest.mark.parametrize("search", ["cma_es", "policy_gradient"])
def test_settings_of_format_1_are_todays(search: str, experiments: dict[str, Experiment]) -> None:
    """To the last one."""
    experiment = experiments[search]
    config = format_1.written(search, experiment.task)["config"]
    assert from_dict(config, "config.json", found=1) == experiment
    flat = {"collect.episodes": 3, "controller.features": "zhc", "controller.hidden_size": 8, "rounds.vision_steps": 5}
    assert formats.upgrade_settings(flat) == {
        "collect.episodes": 3,
        "actor.features": ["z", "c", "h"],
        "actor.hidden_sizes": [8],
        "world.vision.later_steps": 5,
    }


@pytest.mark.parametrize("search", ["cma_es", "policy_gradient"])
def test_stages_of_format_1_are_stale_where_a_setting_changed(
    search: str, experiments: dict[str, Experiment], tmp_path: Path
) -> None:
    """What was in a task's file nobody noted then, so that it counts as the same; another task does not."""
    experiment = experiments[search]
    run = finish_format_1(tmp_path / "run", experiment, format_1.written(search, "/gone/probe_task.py"))
    assert stale(experiment, run) == []
    wider = dataclasses.replace(experiment, actor=MLPConfig(features=("z", "h"), hidden_sizes=(3,)))
    assert [(step.stage.name, reason) for step, reason in stale(wider, run)] == [
        ("evolve", "actor.hidden_sizes was [], now [3]"),
        ("evaluate", "depends on evolve (round 0)"),
    ]
    split = dataclasses.replace(experiment, held_out=0.2)
    assert [step.stage.name for step, _ in stale(split, run)] == ["vision", "encode", "memory", "evolve", "evaluate"]
    other = dataclasses.replace(experiment, task="take_cover")
    assert stale(other, run)[0][1] == "task was '/gone/probe_task.py', now 'take_cover'"
    renamed = shutil.copy(experiment.task, tmp_path / "other.py")
    reason = stale(dataclasses.replace(experiment, task=str(renamed)), run)[0][1]
    assert reason.startswith("task was '/gone/probe_task.py', now 'sha256:")


def test_two_files_of_one_name_are_refused_before_a_run_begins(
    experiments: dict[str, Experiment], tmp_path: Path
) -> None:
    """Bundles and --parts know files by their names alone."""
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "parts.py").write_text(f"# {folder}\n")
    parts = tuple(str(tmp_path / folder / "parts.py") for folder in "ab")
    experiment = dataclasses.replace(experiments["cma_es"], parts=parts)
    with pytest.raises(UserError, match=rf"two files called parts\.py, {parts[0]} and {parts[1]}; .*; rename one"):
        run_experiment(experiment, tmp_path / "run", (), False, None, Screen())
    assert not (tmp_path / "run").exists()
    assert list(digests(dataclasses.replace(experiment, parts=(parts[0], parts[0])))) == ["probe_task.py", "parts.py"]


def test_a_bundle_to_begin_with_counted_by_its_place_in_format_1(
    experiments: dict[str, Experiment], tmp_path: Path
) -> None:
    """V's and M's training noted where it lay; what was in it nobody knows."""
    old = format_1.written("cma_es", "/gone/probe_task.py")
    for folder in ("vision", "memory"):
        old["records"][folder] = {**old["records"][folder], "initial": "/gone/bundle.safetensors"}
    bundle_now = str(PRETRAINED / "take_cover.safetensors")
    experiment = dataclasses.replace(experiments["cma_es"], initial=bundle_now)
    assert stale(experiment, finish_format_1(tmp_path / "run", experiment, old)) == []


def test_a_stage_that_was_stopped_in_format_1_begins_again(experiments: dict[str, Experiment], tmp_path: Path) -> None:
    """Its checkpoints have another structure; what came before it stays."""
    experiment = experiments["cma_es"]
    run = finish_format_1(tmp_path / "run", experiment, format_1.written("cma_es", "/gone/probe_task.py"))
    memory = next(step for step in plan(experiment) if step.stage.name == "memory").folder(run)
    record = json.loads((memory.path / "stage.json").read_text())
    (memory.path / "stage.json").write_text(json.dumps({**record, "finished": False}))
    (memory.work / "checkpoints" / "000000010").mkdir(parents=True)
    reason = "was stopped in format 1, whose checkpoints cannot be continued"
    step, why = stale(experiment, run)[0]
    assert (step.stage.name, why) == ("memory", reason)
    again = [step.stage.name for step in choose(experiment, run, (), redo=True)]
    assert "memory" in again and memory.record is None and not memory.work.exists()


def test_one_array_is_read_layer_by_layer() -> None:
    """As a controller's weights were kept: of each layer its matrix, row by row, then its bias."""
    actor = MLP(("z",), (2, 3, 1))
    numbers = np.arange(actors.size(actor), dtype=np.float32)
    first, last = controller_like(Path("weights"), {"weights": numbers}, "weights", actor)
    assert first.kernel.tolist() == [[0, 1, 2], [3, 4, 5]] and first.bias.tolist() == [6, 7, 8]
    assert last.kernel.tolist() == [[9], [10], [11]] and last.bias.tolist() == [12]
    several = controller_like(Path("weights"), {"weights": np.stack([numbers, -numbers])}, "weights", actor, (2,))
    assert several[1].kernel.tolist() == [[[9], [10], [11]], [[-9], [-10], [-11]]]
    with pytest.raises(UserError, match=r"weights expected float32\[13\], found float32\[12\]"):
        controller_like(Path("weights"), {"weights": numbers[:-1]}, "weights", actor)


@pytest.mark.parametrize("name", ["car_racing", "take_cover"])
def test_shipped_bundles_of_format_1_say_what_has_changed(name: str) -> None:
    stored = bundle.load(PRETRAINED / f"{name}.safetensors").stored
    if stored.format == 1:
        assert len(stored.notes) == 1 and "settings are now grouped by part" in stored.notes[0]
    assert stored.experiment.task == name and stored.warnings == ()


def test_a_format_of_a_later_version_is_refused_by_every_command(
    experiments: dict[str, Experiment], tmp_path: Path
) -> None:
    experiment = experiments["cma_es"]
    run = finish(tmp_path / "run", experiment)
    config = run.path / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "format": 3}))
    before = config.read_bytes()
    says = (
        r"^.*config\.json has format 3, which this version cannot read \(it knows 2 and older\); install the version "
    )
    for command in (
        lambda: of_run(run),
        lambda: bundle.load(run.path),
        lambda: report([run.path], None),
        lambda: run_experiment(experiment, run.path, (), True, None, Screen()),
    ):
        with pytest.raises(UserError, match=says):
            command()
    assert config.read_bytes() == before and all(step.folder(run).finished for step in plan(experiment))
    tree, about = load_weights(PRETRAINED / "take_cover.safetensors")
    path = tmp_path / "later.safetensors"
    save_weights(path, tree, {**about, "format": "wm-jax bundle 3"})
    with pytest.raises(UserError, match=r"^.*later\.safetensors has format 3, which this version cannot read"):
        bundle.load(path)
    save_weights(path, tree, {**about, "format": "another bundle"})
    with pytest.raises(UserError, match=r"later\.safetensors is not a bundle: expected the format 'wm-jax bundle 2'"):
        bundle.load(path)


def test_a_task_counts_by_what_is_in_its_file(experiments: dict[str, Experiment], tmp_path: Path) -> None:
    """Moved together with its run it is the same, and changed where it lies another one."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    task = shutil.copy(experiments["cma_es"].task, here / "mine.py")
    experiment = dataclasses.replace(experiments["cma_es"], task=str(task))
    finish(here / "run", experiment)
    here.rename(there)
    moved, run = dataclasses.replace(experiment, task=str(there / "mine.py")), RunDir(there / "run")
    assert stale(moved, run) == []
    with pytest.raises(
        UserError, match=r"config\.json needs the file mine\.py, which is not at .*here.*; give .*with --task"
    ):
        of_run(run)
    found = of_run(run, there / "mine.py")
    assert found.experiment == moved and found.warnings == ()
    (there / "mine.py").write_text((there / "mine.py").read_text() + "\nMAX = 3\n")
    reasons = dict((step.stage.name, reason) for step, reason in stale(moved, run))
    assert list(reasons) == ["collect", "vision", "encode", "memory", "evolve", "evaluate"]
    assert reasons["collect"].startswith("task was 'sha256:") and ", now 'sha256:" in reasons["collect"]
    assert reasons["vision"] == "depends on collect (round 0)"
    with pytest.raises(UserError, match=r"collect \(round 0\): task was 'sha256:"):
        choose(moved, run, (), redo=False)
    (warning,) = of_run(run, there / "mine.py").warnings
    assert f"{there / 'mine.py'} differs from the file used for" in warning and "results may differ" in warning


def parsed(probe_experiment: Path, *flags: str) -> Experiment:
    """The experiment with these flags."""
    return cli._with_experiment(cli.Info, [str(probe_experiment), *flags]).config


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("--vision.steps 7", "--world.vision.steps 7"),
        ("--vision.batch-size=8", "--world.vision.batch-size=8"),
        ("--vision.optimizer.learning-rate 0.1", "--world.vision.optimizer.learning-rate 0.1"),
        ("--memory.steps 7", "--world.memory.steps 7"),
        ("--memory.sequence_length 9", "--world.memory.sequence-length 9"),
        ("--memory.no-predict-reward", "--world.memory.no-predict-reward"),
        ("--controller.features z", "--actor.features z"),
        ("--controller.features zh", "--actor.features z h"),
        ("--controller.features=zhc", "--actor.features z c h"),
        ("--controller.hidden-size 8", "--actor.hidden-sizes 8"),
        ("--controller.hidden-size=0", "--actor.hidden-sizes"),
        ("--controller.no-bias", "--actor.no-bias"),
        ("--evolve.population 6", "--search.population 6"),
        ("--evolve.rollouts 6", "--search.rollouts 6"),
        ("--evolve.sigma 0.5", "--search.sigma 0.5"),
        ("--evolve.generations 6", "--evolve.generations 6"),
        (
            "--evolve.search policy_gradient --gradient.noise 0.5 --gradient.episodes 9",
            "--search.kind policy_gradient --search.noise 0.5 --dream.episodes 9",
        ),
        ("--evolve.search=policy_gradient", "--search.kind=policy_gradient"),
        ("--rounds.vision-steps 5", "--world.vision.later-steps 5"),
        ("--rounds.memory-steps 5", "--world.memory.later-steps 5"),
        ("--rounds.action-noise 0.1", "--explorer.action-noise 0.1"),
        ("--rounds.random-stretches 0.1", "--explorer.random-stretches 0.1"),
        ("--rounds.stretch-length 5", "--explorer.stretch-length 5"),
        ("--tune.population 6", "--tune.search.population 6"),
        ("--tune.rollouts 6 --tune.sigma 0.2", "--tune.search.rollouts 6 --tune.search.sigma 0.2"),
    ],
)
def test_flags_of_format_1_mean_what_they_meant(old: str, new: str, probe_experiment: Path) -> None:
    def spelt(word: str) -> str:
        flag, *value = word.split("=")
        return "=".join([flag.replace("_", "-"), *value]) if flag.startswith("--") else word

    assert [*map(spelt, formats.upgrade_arguments(old.split()))] == new.split()
    assert formats.upgrade_arguments(new.split()) == new.split()
    assert parsed(probe_experiment, *old.split()) == parsed(probe_experiment, *new.split())


def test_old_flags_reach_the_settings(probe_experiment: Path) -> None:
    flags = "--vision.steps 7 --controller.features zhc --controller.hidden-size 8 --tune.population 6"
    found, before = parsed(probe_experiment, *flags.split()), load(probe_experiment)
    assert to_dict(found)["world"]["vision"]["steps"] == 7
    assert found.actor == MLPConfig(features=("z", "c", "h"), hidden_sizes=(8,))
    assert found.tune.search == dataclasses.replace(before.tune.search, population=6)


def test_a_part_of_another_kind_has_its_own_settings(
    probe_experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = parsed(probe_experiment, "--search.kind", "policy_gradient", "--search.dreams", "64")
    assert found == dataclasses.replace(load(probe_experiment), search=PolicyGradientConfig(dreams=64))
    tuned = parsed(probe_experiment, "--tune.search.kind", "policy_gradient", "--tune.search.hold", "3")
    assert tuned.tune.search == PolicyGradientConfig(hold=3) and tuned.search == load(probe_experiment).search
    same = parsed(probe_experiment, "--search.kind", "cma_es")
    assert same == load(probe_experiment), "what the experiment sets of a part stays"
    with pytest.raises(
        UserError, match=r"search\.kind must be one of .*cma_es, .*found 'cma-es'; did you mean 'cma_es'"
    ):
        parsed(probe_experiment, "--search.kind", "cma-es")
    with pytest.raises(SystemExit):
        parsed(probe_experiment, "--search.dreams", "64")
    assert "--search.dreams" in capsys.readouterr().err


def test_an_error_names_the_setting_that_was_given(probe_experiment: Path) -> None:
    """A search's settings stand in two places."""
    for name in ("search.population", "tune.search.population"):
        for flag in (f"--{name} 3", f"--{name}=3"):
            with pytest.raises(UserError, match=rf"^{name} must be between 4 and 1048576, found 3$"):
                parsed(probe_experiment, *flag.split())
        *groups, last = name.split(".")
        values: Any = {last: 3}
        for group in reversed(groups):
            values = {group: values}
        with pytest.raises(UserError, match=rf"^config\.json: {name} must be between 4 and 1048576, found 3$"):
            from_dict(values, "config.json")
    with pytest.raises(UserError, match=r"^search\.final_noise must be between"):
        parsed(probe_experiment, "--search.kind", "policy_gradient", "--search.final-noise", "9")


def test_an_experiments_settings_are_of_their_types(tmp_path: Path) -> None:
    """As they are once they have been stored: Python does not check them."""
    path = tmp_path / "mine.py"
    path.write_text("from wm_jax.experiment import Experiment\nCONFIG = Experiment(parts=['a.py'], held_out=0)\n")
    assert load(path) == Experiment(parts=(str(tmp_path / "a.py"),), held_out=0)
    for value, problem in (
        ("numpy.int64(3)", r"experiment .*mine\.py: seed is np\.int64\(3\): .* is not an instance of int"),
        ("1.5", r"experiment .*mine\.py: seed is 1\.5: .* is not an instance of int"),
        ("numpy.array(3)", r"experiment .*mine\.py: seed must be a number, found array\(3\)"),
    ):
        path.write_text(f"import numpy\nfrom wm_jax.experiment import Experiment\nCONFIG = Experiment(seed={value})\n")
        with pytest.raises(UserError, match=f"^{problem}"):
            load(path)


PART = """
from dataclasses import dataclass
from typing import Literal
from wm_jax.explore import EXPLORERS
from wm_jax.explore.noise import NoiseConfig

@EXPLORERS.register
@dataclass(frozen=True)
class LouderConfig(NoiseConfig):
    kind: Literal["louder_for_a_test"] = "louder_for_a_test"
    times: int = 3
"""


def test_a_part_of_ones_own_is_chosen_on_the_command_line(probe_experiment: Path, tmp_path: Path) -> None:
    """Its contents count as the setting does, not its place."""
    parts = [tmp_path / "louder.py", tmp_path / "moved.py"]
    for part in parts:
        part.write_text(PART)
    flags = ("--explorer.kind", "louder_for_a_test", "--explorer.times", "4")
    found = [parsed(probe_experiment, "--parts", str(part), *flags) for part in parts]
    assert [to_dict(each)["explorer"]["times"] for each in found] == [4, 4]
    assert [each.parts for each in found] == [(str(part),) for part in parts]
    attached = parsed(probe_experiment, f"--parts={parts[0]}", "--task=car_racing", *flags)
    assert attached.task == "car_racing" and attached.explorer == found[0].explorer
    first, second = ({**identity(each), "parts": None} for each in found)
    assert first == second and first["explorer.kind"].startswith("louder_for_a_test, sha256:")
    assert identity(load(probe_experiment))["explorer.kind"] == "noise"
