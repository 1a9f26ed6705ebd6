"""What a user gets wrong is said in one sentence, with what to do; nothing is lost and nothing is half done."""

import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from wm_jax import cli
from wm_jax.data.weights import check_like, load_weights, save_weights
from wm_jax.errors import UserError
from wm_jax.experiment import Experiment, flatten, from_dict, load, to_dict
from wm_jax.memory import MemoryConfig
from wm_jax.pipeline.loop import Work, run_loop
from wm_jax.pipeline.progress import Screen
from wm_jax.pipeline.stages import choose, plan, stale
from wm_jax.rollouts import EvaluateConfig
from wm_jax.run import Checkpoints, RunDir


def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """(exit code, what was printed to stderr) of a wm-jax command."""
    monkeypatch.setattr("sys.argv", ["wm-jax", *arguments])
    try:
        cli.main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    printed = capsys.readouterr()
    return code, printed.out + printed.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["fly"], "there is no command 'fly'"),
        (["run"], "needs an experiment"),
        (["run", "nowhere.py"], "experiment nowhere.py does not exist"),
        (["evaluate", "nowhere"], "nowhere"),
        (["evaluate", "nowhere.safetensors"], "does not exist"),
        (["export", "tests", "bundle.bin"], ".safetensors"),
        (["export", "tests", "bundle.safetensors"], "not a run folder"),
    ],
)
def test_wrong_commands(
    arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, printed = command(monkeypatch, capsys, *arguments)
    assert code == 1
    assert says in printed
    assert "Traceback" not in printed


def test_misspelt_setting_names_the_nearest(
    probe_experiment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, printed = command(monkeypatch, capsys, "info", str(probe_experiment), "--vision.laten-size", "3")
    assert code == 2
    assert "--vision.latent-size" in printed


def test_impossible_setting_names_the_range(
    probe_experiment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, printed = command(monkeypatch, capsys, "info", str(probe_experiment), "--vision.batch-size", "0")
    assert code == 1
    assert "vision.batch_size must be at least 1, found 0" in printed


def test_scores_never_use_validation_seeds() -> None:
    with pytest.raises(UserError, match="selected on"):
        EvaluateConfig(seed=499_999, episodes=10)
    EvaluateConfig(seed=499_990, episodes=10)


def test_settings_survive_json(probe_experiment: Path) -> None:
    config = load(probe_experiment)
    assert from_dict(json.loads(json.dumps(to_dict(config))), "memory") == config


def test_altered_settings_name_the_nearest(probe_experiment: Path) -> None:
    values = to_dict(load(probe_experiment))
    values["vision"]["latentsize"] = values["vision"].pop("latent_size")
    with pytest.raises(UserError, match=r"config\.json: there is no setting vision\.latentsize.*vision\.latent_size"):
        from_dict(values, "config.json")


@pytest.fixture
def finished_run(tmp_path: Path, probe_experiment: Path) -> tuple[Experiment, RunDir]:
    """A run whose stages are all marked finished."""
    experiment, run = load(probe_experiment), RunDir(tmp_path / "run")
    run.prepare(to_dict(experiment), {})
    for step in plan(experiment):
        step.folder(run).begin(step.settings(experiment))
        step.folder(run).finish({})
    return experiment, run


def test_every_setting_belongs_to_a_stage(probe_experiment: Path) -> None:
    """A setting that no stage depends on could be changed without anybody noticing."""
    experiment = load(probe_experiment)
    experiment = dataclasses.replace(experiment, rounds=dataclasses.replace(experiment.rounds, count=2))
    known = {name for step in plan(experiment) for name in step.settings(experiment)}
    without_effect = {"name", "checkpoint_seconds", "tensorboard", "collect.workers", "rounds.count"}
    assert flatten(experiment).keys() - known == without_effect


def test_a_changed_setting_makes_what_follows_stale(finished_run: tuple[Experiment, RunDir]) -> None:
    experiment, run = finished_run
    assert stale(experiment, run) == []
    changed = dataclasses.replace(experiment, memory=dataclasses.replace(experiment.memory, steps=7))
    assert [step.stage for step, _ in stale(changed, run)] == ["memory", "evolve", "evaluate"]
    with pytest.raises(UserError, match=r"memory\.steps was 600, now 7"):
        choose(changed, run, (), redo=False)
    choose(changed, run, (), redo=True)
    done = [step.stage for step in plan(changed) if step.folder(run).finished]
    assert done == ["collect", "vision", "encode"]


def test_a_stage_needs_those_before_it(tmp_path: Path, probe_experiment: Path) -> None:
    with pytest.raises(UserError, match=r"memory \(round 0\) needs the result of collect"):
        choose(load(probe_experiment), RunDir(tmp_path), ("memory",), redo=False)


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="no run folder"):
        RunDir(tmp_path).prepare({}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_damaged_json_is_named(finished_run: tuple[Experiment, RunDir]) -> None:
    experiment, run = finished_run
    path = run.path / "memory" / "round-0" / "stage.json"
    path.write_text(path.read_text()[:-5])
    with pytest.raises(UserError, match=r"stage\.json is damaged"):
        stale(experiment, run)


TREE = {"a": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}, "b": np.ones(4, np.float32)}


def test_weights_come_back_and_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(path, TREE, {"model": "probe"})
    tree, about = load_weights(path)
    assert about == {"model": "probe"}
    np.testing.assert_array_equal(tree["a"]["kernel"], TREE["a"]["kernel"])
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    with pytest.raises(UserError, match=r"weights\.safetensors is damaged"):
        load_weights(path)
    path.write_bytes(whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:])
    with pytest.raises(UserError, match=r"weights\.safetensors was altered"):
        load_weights(path)
    save_weights(path, {"a": np.array([1.0, np.nan])}, {})
    with pytest.raises(UserError, match="not finite"):
        load_weights(path)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a/kernel expected float32\[2, 4\], found float32\[2, 3\]"):
        check_like(tmp_path / "w", TREE, {"a": {"kernel": jnp.zeros((2, 4))}, "b": jnp.zeros(4)})


def test_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path) -> None:
    checkpoints, warnings = Checkpoints(tmp_path / "checkpoints"), []
    for step in (10, 20, 30):
        checkpoints.save(step, {"x": jnp.full(1000, float(step))})
    assert checkpoints.steps() == [20, 30]
    files = [path for path in (tmp_path / "checkpoints" / "000000030" / "state").rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])
    loaded = checkpoints.load_last({"x": jnp.zeros(1000)}, warnings.append)
    assert loaded is not None
    assert loaded[0] == 20
    assert float(loaded[1]["x"][0]) == 20.0
    assert str(largest) in warnings[0]
    assert "SHA-256" in warnings[0]


def test_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"x": jnp.zeros(3)})
    with pytest.raises(UserError, match="does not fit"):
        checkpoints.load(1, {"x": jnp.zeros(3), "y": jnp.zeros(2)})


def counting(diverges_at: int | None = None, steps: int = 20) -> Work:
    """Work whose state counts the steps."""

    def advance(state: dict) -> tuple[dict, dict]:
        count = state["count"] + 1
        return {"count": count}, {"loss": jnp.where(count == diverges_at, jnp.nan, count * 1.0)}

    return Work(
        title="count", unit="steps", units=1, steps=steps, advance_from=lambda start: advance, watch="loss", log_every=4,
        evaluate_every=10, evaluate=lambda state, done: {"held_out": done}, remedy="count slower",
    )  # fmt: skip


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    stage = run.stage("vision", 0)
    with pytest.raises(UserError, match=r"loss is not finite at step 14 .*state of step 12 is kept.*count slower"):
        run_loop(stage, counting(diverges_at=14), {"count": jnp.int32(0)}, Screen(), checkpoint_seconds=0)
    assert stage.checkpoints.steps()[-1] == 12
    state = run_loop(stage, counting(), {"count": jnp.int32(0)}, Screen(), checkpoint_seconds=0)
    assert int(state["count"]) == 20
    steps = [line["step"] for line in run.metrics() if "loss" in line]
    assert steps == [4, 8, 10, 12, 16, 20]


def test_torn_metrics_are_passed_over(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.log("vision/round-0", 1, {"loss": np.float32(2)})
    with run.metrics_path.open("a") as file:
        file.write('{"stage": "vision/rou')
    assert [line["loss"] for line in run.metrics()] == [2.0]


def test_a_dream_with_rewards_needs_an_m_that_predicts_them(
    probe_experiment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, printed = command(monkeypatch, capsys, "info", str(probe_experiment), "--memory.no-predict-reward")
    assert code == 1
    assert "memory.predict_reward" in printed


def test_other_types_of_settings_are_refused() -> None:
    with pytest.raises(UserError, match=r"memory\.mixtures"):
        MemoryConfig(mixtures=0)
