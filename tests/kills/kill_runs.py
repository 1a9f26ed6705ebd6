"""Kills real runs at random moments, in every stage, and starts them again: each must end with the very bits of a run that
nobody killed, and leave no process and no unfinished file behind.

    python tests/kills/kill_runs.py /tmp/kills --kills 100

For people with Linux, not for CI: 100 kills take half an hour on 2 idle cores. Every run is tests/experiments/probe.py,
made small, with two rounds and a tuning. The same command goes on where it was stopped. Ends with exit code 1 where a run
differs.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import tyro
from tyro.conf import Positional

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "collect.episodes": 60,
    "collect.workers": 2,
    "world.vision.steps": 160,
    "world.vision.later-steps": 120,
    "world.vision.batch-size": 8,
    "world.memory.steps": 160,
    "world.memory.later-steps": 120,
    "world.memory.batch-size": 4,
    "world.memory.sequence-length": 20,
    "search.population": 8,
    "search.rollouts": 2,
    "evolve.generations": 10,
    "evolve.evaluate-every": 2,
    "evolve.evaluation-rollouts": 8,
    "evolve.actual-episodes": 2,
    "evolve.seeds": 2,
    "rounds.count": 2,
    "rounds.episodes": 12,
    "rounds.drivers": "evaluated",
    "rounds.generations": 8,
    "explorer.action-noise": 0.2,
    "explorer.random-stretches": 0.1,
    "tune.generations": 4,
    "tune.search.population": 4,
    "tune.search.rollouts": 2,
    "tune.evaluate-every": 2,
    "tune.actual-episodes": 2,
    "tune.environments": 4,
    "evaluate.episodes": 24,
    "evaluate.environments": 2,
    "checkpoint-seconds": 0,
}
STAGES = [
    *(
        f"{folder}/round-{number}"
        for number in (0, 1)
        for folder in ("rollouts", "vision", "latents", "memory", "controller")
    ),
    "tuned/round-1",
    "evaluation/round-1",
]
"""Their folders, in order."""
MARK = "WM_JAX_KILL_RUNS"
"""An environment variable that a run's processes have in common, wherever they end up."""
SECONDS_TO_END = 10.0
"""How long the workers of a run that was killed may take to notice."""
SECONDS_TO_BEGIN = 5.0
"""What a run takes, about, before its first stage."""
STARTING, ENDING = "before any stage", "after the last one"
ASKED_TO_STOP = 130
"""Exit code of a run that somebody else has ended, not as hard: it just goes on."""
KILLS_IN_STAGE = 2
"""Of one run."""


@dataclass
class Options:
    """Kill real runs at random moments, and compare how they end."""

    folder: Positional[Path]
    """Where the runs and the counts go."""
    kills: int = 100
    """How many kills in all."""
    seed: int = 0
    """When and in which stage follows from it, as far as the machine's speed lets it."""


@dataclass
class Counts:
    """What has happened so far; kept in FOLDER/kills.json."""

    kills: dict[str, int] = field(default_factory=dict)
    """By the stage that was at work."""
    runs: int = 0
    """That ended and were compared."""
    faults: list[str] = field(default_factory=list)
    """What was not as it should be."""


def start(folder: Path, mark: str) -> subprocess.Popen:
    """A run in FOLDER/`mark`, or its going on, as a session of its own."""
    command = [sys.executable, "-m", "wm_jax", "run", str(ROOT / "tests/experiments/probe.py"), "--run-dir", mark]
    scratch = folder / "temporary"
    scratch.mkdir(exist_ok=True)
    environment = {
        **os.environ,
        MARK: mark,
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "TMPDIR": str(scratch),
    }
    log = (folder / f"{mark}.log").open("a")
    command += [f"--{name}={value}" for name, value in SETTINGS.items()]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)


def relatives(mark: str) -> list[int]:
    """The processes of a run that are alive."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and f"{MARK}={mark}\0".encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found


def record(stage: Path) -> dict[str, Any]:
    """What a stage says of itself; empty before it began."""
    path = stage / "stage.json"
    return json.loads(path.read_text()) if path.exists() else {}


def contents(run: Path) -> dict[str, str]:
    """What a run consists of, by file: digests, without its name, the times that are noted, and the
    pages that tell of them."""
    found = {}
    for path in sorted(path for path in run.rglob("*") if path.is_file()):
        name = str(path.relative_to(run))
        data = path.read_bytes()
        if name == ".lock" or name.startswith("report/"):
            continue
        if path.name == "stage.json":
            told = json.loads(data)
            told["summary"].pop("seconds")
            told.pop("command")
            data = json.dumps(told).encode()
        if path.name == "metrics.jsonl":
            lines = [json.loads(line) for line in data.splitlines()]
            data = json.dumps([{**line, "time": 0} for line in lines]).encode()
        found[name] = sha256(data).hexdigest()
    return found


def differences(run: Path, reference: dict[str, str]) -> list[str]:
    """The files that are not as in the reference, and those that should be gone."""
    found = contents(run)
    names = sorted(name for name in found.keys() | reference.keys() if found.get(name) != reference.get(name))
    left = [str(path.relative_to(run)) for path in run.rglob("*") if path.name == "work" or ".unfinished" in path.name]
    return names + left


def lock(run: Path) -> str:
    """What the run's process, each another one, has written to its lock file."""
    path = run / ".lock"
    return path.read_text() if path.exists() else ""


def wait_for_stage(process: subprocess.Popen, run: Path, before: str, stage: str) -> bool:
    """Wait until the process, whose lock is another than the one `before`, is at work in the stage; False where it has
    ended first."""
    while process.poll() is None:
        if lock(run) != before and (
            record(run / stage) or (stage == ENDING and record(run / STAGES[-1]).get("finished"))
        ):
            return True
        time.sleep(0.002)
    return False


def kill(process: subprocess.Popen, mark: str) -> list[str]:
    """Kill a run's main process; its workers have to end by themselves. Returns what is wrong with that."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    end = time.monotonic() + SECONDS_TO_END
    while (alive := relatives(mark)) and time.monotonic() < end:
        time.sleep(0.05)
    for pid in alive:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return [f"{mark}: {len(alive)} workers outlived the run by {SECONDS_TO_END} s"] if alive else []


def moment(chance: random.Random, run: Path, here: Counter[str], lengths: dict[str, float]) -> tuple[str, float]:
    """When to kill: in which stage, of those that are to come ("" for any moment at all), and how many seconds later.
    `here` are this run's kills: with too many of them in a stage it would never end."""
    coming = [name for name in lengths if here[name] < KILLS_IN_STAGE and not record(run / name).get("finished")]
    if chance.random() < 0.15 and here[STARTING] < KILLS_IN_STAGE:
        return "", chance.uniform(0, SECONDS_TO_BEGIN)
    # Mostly in the next stage or the one after it: to get to later ones takes minutes.
    stage = next((name for name in coming if chance.random() < 0.6), "")
    return stage, chance.uniform(0, lengths[stage]) if stage else float("inf")


def at_work(run: Path, before: str) -> str:
    """Where a run is that has just been killed."""
    if lock(run) == before:
        return STARTING
    return next((name for name in STAGES if not record(run / name).get("finished")), ENDING)


def attempt(
    folder: Path, mark: str, chance: random.Random, counts: Counts, here: Counter[str], lengths: dict[str, float]
) -> bool:
    """Start a run, or have it go on, and kill it unless it is faster; whether it has ended."""
    run = folder / mark
    before, (stage, seconds) = lock(run), moment(chance, run, here, lengths)
    process = start(folder, mark)
    try:
        if not stage or wait_for_stage(process, run, before, stage):
            with suppress(subprocess.TimeoutExpired):
                process.wait(None if seconds == float("inf") else seconds)
        ended = process.poll() is not None
    finally:
        if process.poll() is None:
            counts.faults += kill(process, mark)
    if not ended:
        place = at_work(run, before)
        here[place] += 1
        counts.kills[place] = counts.kills.get(place, 0) + 1
    elif process.returncode == ASKED_TO_STOP:
        return False
    elif process.returncode:
        sys.exit(f"{mark} ended with exit code {process.returncode}: see {folder / mark}.log")
    return ended


def whole(folder: Path, mark: str) -> dict[str, str]:
    """The contents of a run that nobody kills."""
    if start(folder, mark).wait():
        sys.exit(f"a run that nobody killed failed: see {folder / mark}.log")
    return contents(folder / mark)


def save(folder: Path, counts: Counts) -> None:
    """Note the counts."""
    unfinished = folder / "kills.json.unfinished"
    unfinished.write_text(json.dumps(vars(counts), indent=1))
    unfinished.replace(folder / "kills.json")


def main() -> None:
    """Kill until there are enough kills; print a line a run, and a table."""
    options = tyro.cli(Options, description=__doc__)
    folder = options.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    # The second run finds everything compiled, as those to be killed will.
    reference = whole(folder, "reference")
    if whole(folder, "again") != reference:
        sys.exit("two runs that nobody killed differ")
    lengths = {name: record(folder / "again" / name)["summary"]["seconds"] + 0.1 for name in STAGES} | {ENDING: 3.0}
    path = folder / "kills.json"
    counts = Counts(**json.loads(path.read_text())) if path.exists() else Counts()
    while sum(counts.kills.values()) < options.kills:
        mark, here = f"run-{counts.runs:03d}", Counter()
        chance = random.Random(f"{options.seed} {counts.runs} {sum(counts.kills.values())}")
        while not attempt(folder, mark, chance, counts, here, lengths):
            save(folder, counts)
        wrong = differences(folder / mark, reference)
        counts.faults += [f"{mark}: {name} differs or should not be there" for name in wrong]
        counts.runs += 1
        save(folder, counts)
        print(f"{mark}: killed {here.total()} times, "
              f"{'then DIFFERENT' if wrong else 'then the same bits'} ({sum(counts.kills.values())} kills, "
              f"{(time.monotonic() - begun) / 60:.0f} min)", flush=True)  # fmt: skip
        if not wrong:
            shutil.rmtree(folder / mark)
    left = [path.name for path in (folder / "temporary").iterdir()]
    counts.faults += [f"left among temporary files: {name}" for name in left]
    for place in (STARTING, *STAGES, ENDING):
        print(f"  {place:<24}{counts.kills.get(place, 0):>4} kills")
    print(f"{sum(counts.kills.values())} kills, {counts.runs} runs compared with one that nobody killed; "
          f"{len(counts.faults)} faults")  # fmt: skip
    for fault in counts.faults:
        print(f"  {fault}")
    sys.exit(bool(counts.faults))


if __name__ == "__main__":
    main()
