"""What a user gets wrong is said in one sentence, with what to do; nothing is lost and nothing is half done."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from wm_jax import cli
from wm_jax.actors.mlp import MLPConfig
from wm_jax.checkpoints import Checkpoints
from wm_jax.data.weights import check_like, load_weights, save_weights
from wm_jax.errors import UserError
from wm_jax.experiment import Experiment, flatten, from_dict, load, to_dict
from wm_jax.memory import MemoryConfig
from wm_jax.models import Models
from wm_jax.pipeline.checking import check_machine
from wm_jax.pipeline.context import Context
from wm_jax.pipeline.loop import Work, run_loop
from wm_jax.pipeline.plan import choose, plan, stale
from wm_jax.pipeline.progress import Interrupt, Screen
from wm_jax.pipeline.running import _begin
from wm_jax.pipeline.stored import to_store
from wm_jax.rollouts import EvaluateConfig
from wm_jax.run import RECORD, RunDir
from wm_jax.search.config import TuneConfig
from wm_jax.version import __version__
from wm_jax.worlds.vision_memory import VisionMemoryConfig


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
        (["evaluate", "nowhere"], "nowhere does not exist; give a run's folder"),
        (["evaluate", "nowhere.safetensors"], "nowhere.safetensors does not exist; give a run's folder"),
        (["evaluate", "wm_jax/pretrained/take_cover.safetensors", "--episodes", "1"], "--episodes must be at least 2"),
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


def test_help_lists_the_kinds_of_parts_and_version_tells_the_version(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, printed = command(monkeypatch, capsys, "--help")
    assert code == 0 and "--search.kind backprop|cma_es|" in printed and "|vision_rssm\n" in printed
    assert command(monkeypatch, capsys, "--version") == (0, f"wm-jax {__version__}, JAX {jax.__version__}\n")


def test_misspelt_setting_names_the_nearest(
    probe_experiment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, printed = command(monkeypatch, capsys, "info", str(probe_experiment), "--world.vision.laten-size", "3")
    assert code == 2
    assert "--world.vision.latent-size" in printed


def test_impossible_setting_names_the_range(
    probe_experiment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, printed = command(monkeypatch, capsys, "info", str(probe_experiment), "--world.vision.batch-size", "0")
    assert code == 1
    assert "world.vision.batch_size must be between 1 and 1048576, found 0" in printed


def test_scores_never_use_validation_seeds() -> None:
    with pytest.raises(UserError, match="selected on"):
        EvaluateConfig(seed=499_999, episodes=10)
    EvaluateConfig(seed=499_990, episodes=10)


def test_settings_survive_json(probe_experiment: Path) -> None:
    config = load(probe_experiment)
    assert from_dict(json.loads(json.dumps(to_dict(config))), "memory") == config


def test_altered_settings_name_the_nearest(probe_experiment: Path) -> None:
    values = to_dict(load(probe_experiment))
    vision = values["world"]["vision"]
    vision["latentsize"] = vision.pop("latent_size")
    with pytest.raises(
        UserError, match=r"json: there is no setting world\.vision\.latentsize.*world\.vision\.latent_size"
    ):
        from_dict(values, "config.json")


def with_memory(experiment: Experiment, **settings: object) -> Experiment:
    """The experiment with other settings of its M."""
    assert isinstance(experiment.world, VisionMemoryConfig)
    memory = dataclasses.replace(experiment.world.memory, **settings)
    return dataclasses.replace(experiment, world=dataclasses.replace(experiment.world, memory=memory))


@pytest.fixture
def finished_run(tmp_path: Path, probe_experiment: Path) -> tuple[Experiment, RunDir]:
    """A run whose stages are all marked finished."""
    experiment, run = load(probe_experiment), RunDir(tmp_path / "run")
    with run.locked():
        run.prepare(to_store(experiment), tensorboard=False)
    for step in plan(experiment):
        step.folder(run).begin(step.settings(experiment), {})
        step.folder(run).finish({})
    return experiment, run


def test_settings_of_the_wrong_type_are_named(probe_experiment: Path) -> None:
    values = to_dict(load(probe_experiment))
    values["world"]["vision"]["steps"] = "many"
    with pytest.raises(UserError, match=r"config\.json: world\.vision\.steps is 'many'"):
        from_dict(values, "config.json")
    with pytest.raises(UserError, match=r"collect\.episodes must be a number, found '5'"):
        dataclasses.replace(load(probe_experiment).collect, episodes="5")


def test_a_search_that_cannot_fit_is_refused_before_anything_runs(probe_experiment: Path) -> None:
    """The covariance of a controller of 10^6 weights alone takes 4 TB."""
    experiment = load(probe_experiment)
    large = dataclasses.replace(experiment, actor=MLPConfig(features=("z",), hidden_sizes=(1000, 1000)))
    check_machine(experiment, Models(experiment))
    with pytest.raises(UserError, match=r"searches side by side \(\d\) take .* choose a smaller actor"):
        check_machine(large, Models(large))


def test_a_wrong_keyword_in_an_experiment_names_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("from wm_jax.vision import VisionConfig\nCONFIG = VisionConfig(latentsize=3)\n")
    with pytest.raises(UserError, match=r"mine\.py cannot be run.*did you mean world\.vision\.latent_size"):
        load(path)


def test_every_setting_belongs_to_a_stage(probe_experiment: Path) -> None:
    """A setting that no stage depends on could be changed without anybody noticing."""
    experiment = load(probe_experiment)
    rounds, tune = dataclasses.replace(experiment.rounds, count=2), TuneConfig(generations=1)
    experiment = dataclasses.replace(experiment, rounds=rounds, tune=tune)
    known = {name for step in plan(experiment) for name in step.settings(experiment)}
    without_effect = {"name", "devices", "checkpoint_seconds", "tensorboard", "collect.workers", "rounds.count"}
    # The files of parts count where a part is chosen that they register.
    assert flatten(experiment).keys() - known == {*without_effect, "parts"}


def test_a_score_hangs_on_whether_C_was_tuned(finished_run: tuple[Experiment, RunDir]) -> None:
    experiment, run = finished_run
    tuned = dataclasses.replace(experiment, tune=TuneConfig(generations=2))
    assert [str(step) for step, _ in stale(tuned, run)] == ["evaluate (round 0)"]
    assert [step.stage.name for step in choose(tuned, run, (), redo=True)][-2:] == ["tune", "evaluate"]
    for step in plan(tuned)[-2:]:
        step.folder(run).begin(step.settings(tuned), {})
        step.folder(run).finish({})
    assert stale(tuned, run) == []
    assert [str(step) for step, _ in stale(experiment, run)] == ["evaluate (round 0)"]
    with pytest.raises(UserError, match=r"--stages names tune but tune\.generations is 0"):
        choose(experiment, run, ("tune",), redo=False)


def test_a_changed_setting_makes_what_follows_stale(finished_run: tuple[Experiment, RunDir]) -> None:
    experiment, run = finished_run
    assert stale(experiment, run) == []
    changed = with_memory(experiment, steps=7)
    assert [step.stage.name for step, _ in stale(changed, run)] == ["memory", "evolve", "evaluate"]
    with pytest.raises(UserError, match=r"world\.memory\.steps was 600, now 7"):
        choose(changed, run, (), redo=False)
    choose(changed, run, (), redo=True)
    done = [step.stage.name for step in plan(changed) if step.folder(run).finished]
    assert done == ["collect", "vision", "encode"]


def test_a_setting_that_a_record_does_not_know_was_as_its_default_is(finished_run: tuple[Experiment, RunDir]) -> None:
    """As in a run that an earlier version made."""
    experiment, run = finished_run
    record = run.stage("memory", 0).path / RECORD
    written = json.loads(record.read_text())
    assert written["settings"].pop("world.memory.reward_weight") == 1.0
    record.write_text(json.dumps(written))
    assert stale(experiment, run) == []
    changed = with_memory(experiment, reward_weight=2.0)
    assert stale(changed, run)[0][1] == "world.memory.reward_weight was 1.0, now 2.0"


def test_scores_films_and_report_go_with_the_result_that_they_show(finished_run: tuple[Experiment, RunDir]) -> None:
    experiment, run = finished_run
    shown = [run.path / "evaluation.json", run.path / "report" / "report.html", run.figures / "film_coldest_strip.png"]
    kept = run.figures / "reconstructions-round0-step0000600.png"
    for path in (*shown, kept):
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}")

    def begin(experiment: Experiment, redo: bool) -> None:
        _begin(Context(experiment, Models(experiment), run, Screen(), Interrupt()), (), redo, None)

    begin(experiment, redo=False)
    assert all(path.exists() for path in shown)
    begin(dataclasses.replace(experiment, evaluate=EvaluateConfig(episodes=5)), redo=True)
    assert kept.exists() and not any(path.exists() for path in shown)


def test_a_device_without_enough_memory_is_said(
    probe_experiment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for error, code in (
        ("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nmore", 1),
        ("INTERNAL: a defect", None),
    ):

        def fail(options: list[str], error: str = error) -> None:
            raise jax.errors.JaxRuntimeError(error)

        monkeypatch.setitem(cli.COMMANDS, "run", fail)
        if code is None:
            with pytest.raises(jax.errors.JaxRuntimeError):
                command(monkeypatch, capsys, "run")
        else:
            found, printed = command(monkeypatch, capsys, "run")
            assert found == code and "allocating 9 bytes.); take smaller batches" in printed and "more\n" not in printed


def test_a_stage_needs_those_before_it(tmp_path: Path, probe_experiment: Path) -> None:
    with pytest.raises(UserError, match=r"memory \(round 0\) needs the result of collect"):
        choose(load(probe_experiment), RunDir(tmp_path), ("memory",), redo=False)


def test_later_rounds_wait_for_their_turn(tmp_path: Path, probe_experiment: Path) -> None:
    """--stages collect vision on a fresh run of two rounds is the first round's; the second cannot be done yet."""
    experiment = load(probe_experiment)
    experiment = dataclasses.replace(experiment, rounds=dataclasses.replace(experiment.rounds, count=2))
    chosen = choose(experiment, RunDir(tmp_path), ("collect", "vision"), redo=False)
    assert [str(step) for step in chosen] == ["collect (round 0)", "vision (round 0)"]


def test_redo_refuses_before_it_deletes(finished_run: tuple[Experiment, RunDir]) -> None:
    experiment, run = finished_run
    with pytest.raises(UserError, match=r"memory \(round 0\) needs the result of encode"):
        choose(experiment, run, ("vision", "memory"), redo=True)
    assert all(step.folder(run).finished for step in plan(experiment))
    chosen = choose(experiment, run, ("vision",), redo=True)
    assert [str(step) for step in chosen] == ["vision (round 0)"]
    assert [step.stage.name for step in plan(experiment) if step.folder(run).finished] == ["collect"]


def test_a_result_whose_origin_is_gone_is_stale(finished_run: tuple[Experiment, RunDir]) -> None:
    """As after a kill in the middle of --redo, or when a folder was deleted."""
    experiment, run = finished_run
    run.stage("vision", 0).clear()
    found = stale(experiment, run)
    assert [step.stage.name for step, _ in found] == ["encode", "memory", "evolve", "evaluate"]
    assert "vision (round 0), whose result is missing" in found[0][1]


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="not a run folder"), RunDir(tmp_path).locked():
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_two_processes_do_not_share_a_run(tmp_path: Path) -> None:
    with (
        RunDir(tmp_path / "run").locked(),
        pytest.raises(UserError, match="another process is using"),
        RunDir(tmp_path / "run").locked(),
    ):
        pass


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
    with pytest.raises(UserError, match=r"weights\.safetensors was altered.*--redo"):
        load_weights(path)
    path.write_bytes(whole.replace(b"probe", b"prose"))
    with pytest.raises(UserError, match=r"weights\.safetensors was altered"):
        load_weights(path)
    header = int.from_bytes(whole[:8], "little")
    for place in range(8 + header):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(UserError, match=r"weights\.safetensors (is damaged|was altered)"):
            load_weights(path)
    save_weights(path, {"a": np.array([1.0, np.nan])}, {})
    with pytest.raises(UserError, match="not finite"):
        load_weights(path)


@pytest.mark.parametrize("header", ["{", "[]", "{}", '{"about": 3, "sha256": ""}', '{"about": {}}', None])
def test_weights_of_something_else_are_named(header: str | None, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"b": TREE["b"]}, path, None if header is None else {"wm_jax": header})
    with pytest.raises(UserError, match=r"weights\.safetensors .* was not written by wm-jax: expected a header"):
        load_weights(path)


def test_the_same_weights_give_the_same_bytes(tmp_path: Path) -> None:
    """In other processes too: a hash seed must not decide on the order of what is written."""
    program = (
        "import sys, pathlib, numpy; from wm_jax.data.weights import save_weights;"
        "[save_weights(pathlib.Path(sys.argv[1]) / f'{sys.argv[2]}{i}', {'b': numpy.ones(3), 'a': numpy.ones(2)},"
        " {'x': 1, 'y': 2}) for i in range(4)]"
    )
    for process in "ab":
        subprocess.run([sys.executable, "-c", program, str(tmp_path), process], check=True)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a/kernel expected float32\[2, 4\], found float32\[2, 3\]"):
        check_like(tmp_path / "w", TREE, {"a": {"kernel": np.zeros((2, 4), np.float32)}, "b": np.zeros(4, np.float32)})


def test_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path) -> None:
    checkpoints, warnings = Checkpoints(tmp_path / "checkpoints"), []
    for step in (10, 20, 30):
        checkpoints.save(step, {"x": jnp.full(1000, float(step), jnp.float32)})
    assert checkpoints.steps() == [20, 30]
    files = [path for path in (tmp_path / "checkpoints" / "000000030" / "state").rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])
    loaded = checkpoints.load_last({"x": jnp.zeros(1000, jnp.float32)}, warnings.append)
    assert loaded is not None
    assert loaded[0] == 20
    assert float(loaded[1]["x"][0]) == 20.0
    assert str(largest) in warnings[0]
    assert "SHA-256" in warnings[0]


def test_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"x": jnp.zeros(3, jnp.float32)})
    with pytest.raises(UserError, match="does not fit"):
        checkpoints.load(1, {"x": jnp.zeros(3, jnp.float32), "y": jnp.zeros(2, jnp.float32)})


def counting(diverges_at: int | None = None, steps: int = 20) -> Work:
    """Work whose state counts the steps."""

    def advance(state: dict) -> tuple[dict, dict]:
        count = state["count"] + 1
        return {"count": count}, {"loss": jnp.where(count == diverges_at, jnp.nan, count * 1.0)}

    return Work(
        title="count", unit="steps", units=1, steps=steps, stride=1, advance_from=lambda start: advance, watch="loss",
        average=4, evaluate_every=10, evaluate=lambda state, done: {"held_out": done}, result=lambda state: state,
        remedy="count slower",
    )  # fmt: skip


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    stage = run.stage("vision", 0)
    with pytest.raises(UserError, match=r"loss is not finite at step 14 .*state of step 12 is kept.*count slower"):
        run_loop(stage, counting(diverges_at=14), {"count": jnp.int32(0)}, Screen(), Interrupt(), 0)
    assert stage.checkpoints.steps()[-1] == 12
    state = run_loop(stage, counting(), {"count": jnp.int32(0)}, Screen(), Interrupt(), 0)
    assert int(state["count"]) == 20
    steps = [line["step"] for line in run.metrics() if "loss" in line]
    assert steps == [4, 8, 10, 12, 16, 20]


def test_of_several_evolutions_one_may_fail_and_where_all_do_the_generation_is_named(tmp_path: Path) -> None:
    """Their metrics come as [generations of a call, evolutions]."""

    def advance(state: dict) -> tuple[dict, dict]:
        steps = state["count"] + 1 + jnp.arange(5)
        fails = (steps == 7)[:, None] & (jnp.arange(3) == 2)[None] | (steps == 13)[:, None]
        return {"count": state["count"] + 5}, {"loss": jnp.where(fails, jnp.nan, steps[:, None] * 1.0)}

    work = dataclasses.replace(counting(), advance_from=lambda start: advance, stride=5, average=1)
    run = RunDir(tmp_path)
    with pytest.raises(UserError, match=r"loss is not finite at step 13 .*state of step 10 is kept"):
        run_loop(run.stage("controller", 0), work, {"count": jnp.int32(0)}, Screen(), Interrupt(), 0)
    logged = {line["step"]: line["loss"] for line in run.metrics() if "loss" in line}
    assert list(logged) == list(range(1, 11)) and logged[7] == [7, 7, None] and logged[8] == [8, 8, 8]
    assert "NaN" not in run.metrics_path.read_text()


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    """A finite loss can have a gradient that is not."""

    def advance(state: dict) -> tuple[dict, dict]:
        count = state["count"] + 1
        return {"count": jnp.where(count >= 7, jnp.nan, count)}, {"loss": 1.0}

    work = dataclasses.replace(counting(), advance_from=lambda start: advance)
    stage = RunDir(tmp_path).stage("vision", 0)
    with pytest.raises(UserError, match="weights are not finite at step 8; the state of step 4 is kept"):
        run_loop(stage, work, {"count": jnp.float32(0)}, Screen(), Interrupt(), 0)
    assert stage.checkpoints.steps() == [4]


def test_rows_of_a_stacked_call_are_logged_one_by_one(tmp_path: Path) -> None:
    def advance(state: dict) -> tuple[dict, dict]:
        return {"count": state["count"] + 5}, {"loss": state["count"] + jnp.arange(1.0, 6.0)}

    work = dataclasses.replace(counting(), advance_from=lambda start: advance, stride=5, average=1)
    run = RunDir(tmp_path)
    run_loop(run.stage("controller", 0), work, {"count": jnp.float32(0)}, Screen(), Interrupt(), 0)
    logged = [(line["step"], line["loss"]) for line in run.metrics() if "loss" in line]
    assert logged == [(n, float(n)) for n in range(1, 21)]


def test_tensorboard_events_are_written(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    with run.locked():
        run.prepare({}, tensorboard=True)
        run.log("vision/round-0", 1, {"loss": 2.0})
        run.writer.close()
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))


def test_torn_metrics_are_passed_over(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.log("vision/round-0", 1, {"loss": np.float32(2)})
    with run.metrics_path.open("a") as file:
        file.write('{"stage": "vision/rou')
    assert [line["loss"] for line in run.metrics()] == [2.0]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--world.memory.no-predict-reward"], "set world.memory.predict_reward to True"),
        (["--dream.reward", "survival", "--world.memory.no-predict-done"], "set world.memory.predict_done to True"),
        (["--dream.end", "drawn", "--world.memory.no-predict-done"], "does not predict the end of a step"),
        (["--evaluate.baselines", "randm"], "did you mean 'random'"),
        (["--collect.policy", "rand"], "did you mean 'random'"),
        (["--world.memory.reward-loss", "poisson"], "give its reward_range a lower bound"),
        (["--evolve.max-steps", "50"], "evolve.max_steps is 50 but evolve.fitness is 'dream'"),
        (["--evolve.max-steps", "0"], "evolve.max_steps must be at least 1"),
        (["--checkpoint-seconds", "inf"], "checkpoint_seconds must be finite and at least 0.0, found inf"),
        (["--mirror"], "the task probe does not define mirrored actions"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_at_once(
    arguments: list[str],
    says: str,
    probe_experiment: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "run"
    code, printed = command(monkeypatch, capsys, "run", str(probe_experiment), "--run-dir", str(folder), *arguments)
    assert code == 1
    assert says in printed
    assert not folder.exists()


def test_other_types_of_settings_are_refused() -> None:
    with pytest.raises(UserError, match=r"world\.memory\.mixtures"):
        MemoryConfig(mixtures=0)
