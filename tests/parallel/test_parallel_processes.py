"""Two processes of one machine as one run."""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from wm_jax.data.weights import load_weights

pytestmark = pytest.mark.whole

TINY = [
    *("--collect.episodes", "24", "--collect.workers", "1"),
    *("--world.vision.steps", "100", "--world.vision.batch-size", "8"),
    *("--world.memory.steps", "40", "--world.memory.batch-size", "4", "--world.memory.sequence-length", "20"),
    *("--evolve.generations", "2", "--evolve.evaluate-every", "2", "--search.population", "8"),
    *("--search.rollouts", "2", "--evolve.evaluation-rollouts", "8", "--evaluate.episodes", "11"),
    *("--evolve.actual-episodes", "3", "--evaluate.environments", "2", "--checkpoint-seconds", "0"),
]


def together(environment: dict[str, str], command: list[str], *more: list[str]) -> list[subprocess.Popen]:
    """`command` as process 0 and as process 1, with their own options of `more`."""
    return [
        subprocess.Popen(
            [sys.executable, *command, *own],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for own in more
    ]


def free_address() -> str:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return f"localhost:{found.getsockname()[1]}"


def ends(processes: list[subprocess.Popen]) -> tuple[list[int], list[str]]:
    """Exit codes and outputs; the line that the CPU's collectives print is left out."""
    outputs = [process.communicate(timeout=900)[0] for process in processes]
    said = ["".join(line for line in output.splitlines(True) if not line.startswith("[Gloo]")) for output in outputs]
    return [process.returncode for process in processes], said


def run_two(experiment: Path, folder: Path, environment: dict[str, str], *settings: str) -> list[subprocess.Popen]:
    command = ["-m", "wm_jax", "run", str(experiment), "--run-dir", str(folder), *TINY, *settings]
    where = ["--coordinator", free_address(), "--processes", "2", "--process-id"]
    return together(environment, command, [*where, "0"], [*where, "1"])


def wait_for(processes: list[subprocess.Popen], folder: Path, pattern: str) -> None:
    deadline = time.monotonic() + 600
    while not list(folder.glob(pattern)):
        if time.monotonic() > deadline or any(process.poll() is not None for process in processes):
            for process in processes:
                process.kill()
            pytest.fail(f"no {pattern}: {ends(processes)}")
        time.sleep(0.01)


@pytest.fixture(scope="module")
def experiment(probe_experiment: Path) -> Path:
    """Whose last search learns from actual episodes, all of which both processes play."""
    return probe_experiment.with_name("probe_tuned.py")


@pytest.fixture(scope="module")
def alone(experiment: Path, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "alone"
    command = [sys.executable, "-m", "wm_jax", "run", str(experiment), "--run-dir", str(folder), *TINY]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_they_tell_each_other_and_share_arrays(environment: dict[str, str], tmp_path: Path) -> None:
    command, address = [str(Path(__file__).parent / "two_processes.py")], free_address()
    codes, outputs = ends(together(environment, command, *([address, i, str(tmp_path)] for i in "01")))
    assert codes == [0, 0], outputs


def test_two_stopped_and_gone_on_end_as_one(
    alone: Path, experiment: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "two"
    processes = run_two(experiment, folder, environment)
    wait_for(processes, folder, "vision/round-0/work/checkpoints/0*/manifest.json")
    # One of them is told; both stop.
    processes[1].send_signal(signal.SIGTERM)
    codes, (first, second) = ends(processes)
    assert codes == [130, 130], (first, second)
    assert "stopped in vision/round-0 at step" in first and "the same command continues" in first
    assert second == ""

    codes, (first, second) = ends(run_two(experiment, folder, environment))
    assert codes == [0, 0], (first, second)
    assert "collect (round 0): finished before" in first and second == ""
    assert files(folder) == files(alone)
    steps = [
        [(line["stage"], line["step"]) for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())]
        for run in (folder, alone)
    ]
    assert steps[0] == steps[1]
    for path in sorted(alone.glob("rollouts/**/*.array_record")):
        assert path.read_bytes() == (folder / path.relative_to(alone)).read_bytes()
    # Sums over a batch cut in two differ in their last bits; V and M carry that on over all their steps, C too.
    for stage, tolerance in {"vision": 1e-4, "memory": 1e-4, "controller": 1e-3, "tuned": 1e-2}.items():
        weights = [load_weights(run / stage / "round-0" / "weights.safetensors")[0] for run in (folder, alone)]
        found, expected = (np.concatenate([leaf.ravel() for leaf in _leaves(tree)]) for tree in weights)
        np.testing.assert_allclose(found, expected, atol=tolerance, err_msg=stage)
    scores = [json.loads((run / "evaluation.json").read_text()) for run in (folder, alone)]
    for name in ("random", "controller"):
        found, expected = (score[name] for score in scores)
        assert found["seeds"] == expected["seeds"]
        np.testing.assert_allclose(found["returns"], expected["returns"], atol=0 if name == "random" else 0.01)


def _leaves(tree: dict) -> list[np.ndarray]:
    return [
        leaf for _, value in sorted(tree.items()) for leaf in (_leaves(value) if isinstance(value, dict) else [value])
    ]


def test_a_batch_that_two_cannot_share_is_said_once(
    experiment: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    two = run_two(experiment, tmp_path / "odd", environment, "--world.memory.batch-size", "5")
    codes, (first, second) = ends(two)
    assert codes == [1, 1]
    assert "world.memory.batch_size is 5, which 2 devices cannot share evenly" in first
    assert second == ""


def test_when_one_is_killed_the_other_ends_and_says_so(
    experiment: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "killed"
    processes = run_two(experiment, folder, environment, "--collect.episodes", "2000")
    wait_for(processes, folder, "rollouts/round-0/episodes/*.array_record")
    processes[1].kill()
    codes, (first, _) = ends(processes)
    assert codes[0] == 1
    assert "most likely because another one ended" in first
    assert "Traceback" not in first
