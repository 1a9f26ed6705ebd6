"""An ablation has another run's V and M as its own, and never touches that run."""

import dataclasses
import hashlib
from pathlib import Path

import pytest

from wm_jax.errors import UserError
from wm_jax.experiment import Experiment, load
from wm_jax.pipeline.plan import choose, plan
from wm_jax.pipeline.progress import Screen
from wm_jax.pipeline.reusing import take_over
from wm_jax.pipeline.running import run_experiment
from wm_jax.pipeline.stored import to_store
from wm_jax.run import RECORD, RunDir
from wm_jax.worlds.vision_memory import VisionMemoryConfig


def begun(path: Path, experiment: Experiment, finished: int = 6) -> RunDir:
    """A run whose first stages of six are marked finished, each with a line of metrics and a file; V has pictures too."""
    run = RunDir(path)
    with run.locked():
        run.prepare(to_store(experiment), tensorboard=False)
    for step in plan(experiment)[:finished]:
        stage = step.folder(run)
        stage.begin(step.settings(experiment), {})
        (stage.path / "result").write_text(step.stage.name)
        stage.log(1, {"loss": 0.5})
        stage.finish({})
    (run.figures / "reconstructions-round0-step0000600.png").write_bytes(b"a picture")
    return run


@pytest.fixture
def experiment(probe_experiment: Path) -> Experiment:
    return load(probe_experiment)


@pytest.fixture
def source(tmp_path: Path, experiment: Experiment) -> RunDir:
    return begun(tmp_path / "source", experiment)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    fresh = RunDir(tmp_path / "run")
    with fresh.locked():
        return fresh


def with_steps(experiment: Experiment, **steps: int) -> Experiment:
    """The experiment with these steps of V or M."""
    world = experiment.world
    assert isinstance(world, VisionMemoryConfig)
    parts = {name: dataclasses.replace(getattr(world, name), steps=number) for name, number in steps.items()}
    return dataclasses.replace(experiment, world=dataclasses.replace(world, **parts))


def untrained(experiment: Experiment) -> Experiment:
    """The ablation without a trained M."""
    return with_steps(experiment, memory=0)


def contents(run: RunDir) -> dict[str, str]:
    files = sorted(path for path in run.path.rglob("*") if path.is_file())
    return {str(path): f"{path.stat().st_mtime_ns} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files}


def own_and_taken(experiment: Experiment, run: RunDir) -> tuple[list[str], list[str]]:
    """The stages that are finished here, and those that are links to another run's."""
    stages = [(step.stage.name, step.folder(run)) for step in plan(experiment)]
    return (
        [name for name, stage in stages if stage.origin is None and stage.finished],
        [name for name, stage in stages if stage.origin is not None],
    )


def test_stages_are_taken_over_up_to_the_first_that_differs(
    experiment: Experiment, source: RunDir, run: RunDir
) -> None:
    before, ablation = contents(source), untrained(experiment)
    told = take_over(ablation, run, source)
    assert told == (
        f"taken over from {source.path}: collect (round 0), vision (round 0), encode (round 0); the rest is not reused: "
        "memory (round 0): world.memory.steps was 600, now 0"
    )
    assert own_and_taken(ablation, run) == ([], ["collect", "vision", "encode"])
    assert run.stage("vision", 0).origin == source.path.resolve() / "vision" / "round-0"
    assert [line["stage"] for line in run.metrics()] == ["rollouts/round-0", "vision/round-0", "latents/round-0"]
    assert (run.figures / "reconstructions-round0-step0000600.png").read_bytes() == b"a picture"
    assert [step.stage.name for step in choose(ablation, run, ("memory",), redo=False)] == ["memory"]
    assert take_over(ablation, run, source) == told, "the same command again"
    assert len(list(run.metrics())) == 3
    assert contents(source) == before


def test_an_ablation_of_an_ablation_links_to_where_the_result_is(
    experiment: Experiment, source: RunDir, run: RunDir, tmp_path: Path
) -> None:
    run.prepare({}, tensorboard=False)
    take_over(untrained(experiment), run, source)
    third = RunDir(tmp_path / "third")
    with third.locked():
        assert "the rest is not reused: memory (round 0): it is not finished there" in take_over(experiment, third, run)
    assert third.stage("vision", 0).origin == source.stage("vision", 0).path.resolve()
    assert len(list(third.metrics())) == 3


def test_what_was_begun_here_stays(experiment: Experiment, source: RunDir, run: RunDir) -> None:
    step = plan(experiment)[1]
    step.folder(run).begin(step.settings(experiment), {})
    assert "the rest is not reused: vision (round 0): this run has already started it" in take_over(
        experiment, run, source
    )
    assert own_and_taken(experiment, run) == ([], ["collect"])


@pytest.mark.parametrize("redo", [("vision",), ()])
def test_doing_a_stage_again_here_leaves_the_other_run_alone(
    redo: tuple[str, ...], experiment: Experiment, source: RunDir, run: RunDir
) -> None:
    """By name, and because a setting changed."""
    take_over(experiment, run, source)
    before = contents(source)
    chosen = choose(with_steps(experiment, vision=600 if redo else 601), run, redo, redo=True)
    assert "vision" in [step.stage.name for step in chosen]
    assert own_and_taken(experiment, run) == ([], ["collect"])
    assert [line["stage"] for line in run.metrics()] == ["rollouts/round-0"]
    assert contents(source) == before


def test_nothing_is_made_again_in_the_other_run(experiment: Experiment, tmp_path: Path) -> None:
    """Neither what is missing there, nor a stage that it does again itself, nor one that is gone."""
    source = begun(tmp_path / "source", experiment, finished=1)

    def error() -> str:
        with pytest.raises(UserError) as raised:
            run_experiment(experiment, tmp_path / "run", ("collect",), False, None, Screen())
        return str(raised.value)

    with RunDir(tmp_path / "run").locked():
        take_over(experiment, RunDir(tmp_path / "run"), source)
    before, stage = contents(source), source.stage("rollouts", 0)
    assert f"was taken over from {stage.path.resolve()}, and index.jsonl is missing" in error()
    assert contents(source) == before
    stage.begin(plan(experiment)[0].settings(experiment), {})
    before = contents(source)
    assert "and it is no longer finished there" in error()
    (stage.path / "work").mkdir()
    RunDir(tmp_path / "run").stage("rollouts", 0).tidy()
    assert (stage.path / "work").exists() and contents(source) == before
    stage.clear()
    assert f"and its {RECORD} is missing" in error()
    assert f"delete the link {tmp_path / 'run' / 'rollouts' / 'round-0'}" in error()


def test_what_cannot_be_reused_is_named(experiment: Experiment, source: RunDir, run: RunDir, tmp_path: Path) -> None:
    other = dataclasses.replace(experiment, seed=5)
    with pytest.raises(UserError, match=r"nothing of .*source can be reused: collect \(round 0\): seed was 0, now 5"):
        take_over(other, run, source)
    text = Path(experiment.task).read_text()
    (tmp_path / "probe_task.py").write_text(text.replace('name="probe"', 'name="upside_down"'))
    task = dataclasses.replace(experiment, task=str(tmp_path / "probe_task.py"))
    with pytest.raises(
        UserError, match=r"nothing of .* can be reused: collect \(round 0\): task was 'sha256:\w+', now 'sha256:"
    ):
        take_over(task, run, source)
    with pytest.raises(UserError, match="is this run itself"):
        take_over(experiment, source, RunDir(tmp_path / "run" / ".." / "source"))
    with pytest.raises(UserError, match=r"nothing of .* can be reused: collect \(round 0\): it is not finished there"):
        take_over(experiment, run, begun(tmp_path / "empty", experiment, finished=0))
    with pytest.raises(UserError, match="nowhere is not a run folder"):
        run_experiment(experiment, tmp_path / "new", (), False, tmp_path / "nowhere", Screen())
    assert own_and_taken(experiment, run) == ([], [])
