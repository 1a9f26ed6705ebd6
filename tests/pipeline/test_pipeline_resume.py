"""A run that is stopped in every stage ends with the very bits of a run that was not."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.whole

SETTINGS = {
    "collect.episodes": 60,
    "collect.workers": 2,
    # As many steps in the second round, so that V's and M's training compiles once.
    "world.vision.steps": 60,
    "world.vision.later-steps": 60,
    "world.vision.batch-size": 8,
    "world.memory.steps": 80,
    "world.memory.later-steps": 80,
    "world.memory.batch-size": 4,
    "world.memory.sequence-length": 20,
    "search.population": 8,
    "search.rollouts": 2,
    "evolve.generations": 24,
    "evolve.evaluate-every": 2,
    "evolve.evaluation-rollouts": 8,
    "evolve.actual-episodes": 2,
    "evolve.seeds": 2,
    "rounds.count": 2,
    "rounds.episodes": 6,
    "rounds.drivers": "evaluated",
    "rounds.generations": 10,
    "explorer.action-noise": 0.2,
    "explorer.random-stretches": 0.1,
    "evaluate.episodes": 24,
    "evaluate.environments": 2,
    "checkpoint-seconds": 0,
}
TINY = [f"--{name}={value}" for name, value in SETTINGS.items()]

BEGUN = {
    "rollouts/round-0": "episodes/*.array_record",
    "vision/round-0": "work/checkpoints/0*/manifest.json",
    "latents/round-0": "work/parts/*.safetensors",
    "memory/round-0": "work/checkpoints/0*/manifest.json",
    "controller/round-0": "work/checkpoints/0*/manifest.json",
    "rollouts/round-1": "episodes/*.array_record",
    "vision/round-1": "work/checkpoints/0*/manifest.json",
    "memory/round-1": "work/checkpoints/0*/manifest.json",
    "evaluation/round-1": "random.json",
}
"""What lies in a stage's folder when it has done a part of its work."""


def start(experiment: Path, folder: Path, environment: dict[str, str], *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "wm_jax", "run", str(experiment), "--run-dir", str(folder), *TINY, *more]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    return output


def results(folder: Path) -> dict[str, str]:
    """Digests of every file that a run's results consist of."""
    kinds = ("**/*.safetensors", "**/*.array_record", "**/index.jsonl", "**/evaluations.json")
    files = sorted(path for kind in kinds for path in folder.glob(kind))
    digests = {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    scores = json.loads((folder / "evaluation.json").read_text())
    scores |= {f"evolution {number}": each["actual"] for number, each in enumerate(scores.pop("evolutions"))}
    return digests | {f"returns of {name}": str(score["returns"]) for name, score in scores.items()}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a user's compiled programs are kept."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def environment(home: Path, quick_flags: str) -> dict[str, str]:
    """That of a user who has not chosen how programs are compiled and kept, but for less care in compiling."""
    own = {"XDG_CACHE_HOME": str(home), "XLA_FLAGS": quick_flags}
    return {name: value for name, value in os.environ.items() if name != "JAX_ENABLE_COMPILATION_CACHE"} | own


def kept_programs(home: Path) -> int:
    """Programs that were compiled and kept."""
    return len(list(home.glob("wm_jax/*/*-cache")))


@pytest.fixture(scope="module")
def uninterrupted(
    probe_experiment: Path, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    finish(start(probe_experiment, folder, environment))
    return folder


def wait_for(process: subprocess.Popen, folder: Path, pattern: str) -> None:
    deadline = time.monotonic() + 600
    while not list(folder.glob(pattern)):
        assert process.poll() is None, f"ended before {pattern} in {folder}: {process.stdout and process.stdout.read()}"
        assert time.monotonic() < deadline, f"no {pattern} in {folder}"
        time.sleep(0.002)


def test_stopped_in_every_stage_ends_with_the_same_bits(
    uninterrupted: Path, probe_experiment: Path, environment: dict[str, str], home: Path, tmp_path: Path
) -> None:
    """Killed, but once by Ctrl-C, which saves and says how to go on. No start after the first run compiles anything."""
    folder, mid_work, compiled, before = tmp_path / "stopped", [], kept_programs(home), 0.0
    assert compiled > 100
    for name, pattern in BEGUN.items():
        process = start(probe_experiment, folder, environment)
        wait_for(process, folder / name, pattern)
        asked = name == "memory/round-0"
        process.send_signal(signal.SIGINT if asked else signal.SIGKILL)
        output, _ = process.communicate(timeout=60)
        if asked:
            assert process.returncode == 130, output
            assert "the same command continues" in output
            assert "Traceback" not in output
            before = json.loads((folder / name / "stage.json").read_text())["seconds"]
        mid_work.append(not json.loads((folder / name / "stage.json").read_text())["finished"])
    assert sum(mid_work) >= len(BEGUN) - 1, f"the stops came too late to mean anything: {mid_work}"
    finish(start(probe_experiment, folder, environment))
    assert results(folder) == results(uninterrupted)
    assert kept_programs(home) == compiled
    after = json.loads((folder / "memory" / "round-0" / "stage.json").read_text())["summary"]["seconds"]
    assert 0 < before < after, "a stage's time is that of all its processes that were stopped"


def test_evaluated_means_drive_from_the_first_to_the_last(uninterrupted: Path) -> None:
    """Two evolutions' means of twelve evaluations share six episodes."""
    index = uninterrupted / "rollouts" / "round-1" / "episodes" / "index.jsonl"
    policies = [json.loads(line)["policy"] for line in index.read_text().splitlines()]
    assert policies == [f"candidate {row} of round 0" for row in (0, 4, 9, 13, 18, 23)]


def test_a_deleted_file_is_made_again(uninterrupted: Path, probe_experiment: Path, environment: dict[str, str]) -> None:
    """What the messages about damaged files tell to do."""
    before = results(uninterrupted)
    (uninterrupted / "rollouts" / "round-0" / "episodes" / "000007.array_record").unlink()
    (uninterrupted / "latents" / "round-1" / "latents.safetensors").unlink()
    output = finish(start(probe_experiment, uninterrupted, environment))
    assert "000007.array_record is missing; it is made again" in output
    assert results(uninterrupted) == before


def test_a_finished_run_does_nothing_and_a_changed_setting_is_named(
    uninterrupted: Path, probe_experiment: Path, environment: dict[str, str]
) -> None:
    before = results(uninterrupted)
    process = start(probe_experiment, uninterrupted, environment, "--world.memory.hidden-size", "16")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "world.memory.hidden_size was 32, now 16" in output
    assert "evolve (round 0): depends on memory (round 0)" in output
    assert "--redo" in output
    assert "Traceback" not in output
    assert results(uninterrupted) == before
    assert json.loads((uninterrupted / "config.json").read_text())["world"]["memory"]["hidden_size"] == 32
