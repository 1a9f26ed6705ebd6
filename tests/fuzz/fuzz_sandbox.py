"""Where malformed input is tried: a folder with a small run and its bundle, and commands that are called in this process.

A process a command would take seconds; here lanes are stepped in this process, too, except where a task's file is what is
malformed.
"""

import contextlib
import io
import re
import shutil
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from wm_jax import __main__
from wm_jax.bench import suite
from wm_jax.pipeline import running
from wm_jax.pipeline.progress import Interrupt, Stopped
from wm_jax.rollouts import acting
from wm_jax.rollouts.lanes import TaskEnv
from wm_jax.rollouts.limits import WHOLE, Limits
from wm_jax.tasks import FRAME_SHAPE, load_task

HERE = Path(__file__).parent
SECONDS = 120
"""No command may take longer."""
STOPS = {
    "in vision": "vision/round-0/work/checkpoints/0*/manifest.json",
    "in memory": "memory/round-0/work/checkpoints/0*/manifest.json",
    "in evolve": "controller/round-0/work/checkpoints/0*/manifest.json",
}
"""What lies in a run's folder when it is stopped there."""
FINISHED = "finished"


def _blank() -> bytes:
    target = io.BytesIO()
    Image.new("RGB", (8, 8)).save(target, "png")
    return target.getvalue()


BLANK = _blank()


class Hang(BaseException):
    """A command took longer than `SECONDS`."""


class HereLanes:
    """A group of lanes (`acting.Group`) in this process."""

    def __init__(self, task_name: str, count: int, limits: Limits = WHOLE, backend: str | None = None):
        task = load_task(task_name)
        self.num_envs = count
        self.environments = [TaskEnv(task, task.make(backend), limits) for _ in range(count)]
        self.frames = np.zeros((count, *FRAME_SHAPE), np.uint8)
        self.over = np.ones(count, bool)

    def prepare(self, seeds: Sequence[int]) -> None:
        pass

    def begin(self, seeds: Mapping[int, int]) -> None:
        for lane, seed in seeds.items():
            self.frames[lane], self.over[lane] = self.environments[lane].reset(seed), False

    def begun(self) -> np.ndarray:
        return self.frames.copy()

    def act(self, actions: np.ndarray) -> None:
        self.rewards, self.terminated = np.zeros(self.num_envs), self.over.copy()
        self.truncated = np.zeros(self.num_envs, bool)
        for lane in np.flatnonzero(~self.over):
            seen = self.environments[lane].step(actions[lane])
            self.frames[lane], self.rewards[lane], self.terminated[lane], self.truncated[lane] = seen

    def acted(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        self.over = self.terminated | self.truncated
        return self.frames.copy(), self.rewards, self.terminated, self.truncated

    def close(self, *, terminate: bool) -> None:
        for environment in self.environments:
            environment.close()


class StopsAt(Interrupt):
    """Asks to stop when a file of this pattern is there."""

    def __init__(self, folder: Path, pattern: str):
        self.folder, self.pattern = folder, pattern

    @property
    def requested(self) -> bool:
        return any(self.folder.glob(self.pattern))

    @requested.setter
    def requested(self, value: bool) -> None:
        pass


def cut(*_: object) -> NoReturn:
    """Instead of work that would take hours."""
    raise Stopped("here real work would begin")


@dataclass
class Outcome:
    """What came of a command."""

    code: object
    out: str
    err: str
    trace: str = ""
    """Of what was raised instead of an exit."""


@dataclass
class Attempt:
    """A command to try, in a folder where something is malformed."""

    arguments: list[str]
    what: str
    """What is malformed."""
    spoilt: set[str] = field(default_factory=set)
    """The files, or folders, that are not as they were."""
    users: str | None = None
    """The user's own Python file that is malformed: its errors have tracebacks."""
    works: bool = False
    """It may begin real work, which is small."""
    real: bool = False
    """Its environments are in processes of their own, as they are for users."""
    redo: bool = False
    """It may delete results: it is told to."""
    exact: bool = True
    """Where a run ends, its results must be the very ones of the run that was left alone."""
    encoding: str = "utf-8"
    """Of the terminal."""


class Sandbox:
    """A folder with tiny.py, its task, runs in every state, and a bundle; made anew for each attempt."""

    def __init__(self, stored: Path, folder: Path):
        self.stored, self.folder = stored, folder

    def fresh(self, *names: str) -> None:
        """Only these: "run" stands for a run's folder in the state STATE, as "run:in vision"."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        for name in ("tiny.py", "probe_task.py"):
            shutil.copy2(self.stored / name, self.folder / name)
        for name in names:
            target, _, state = name.partition(":")
            source = self.stored / (state or name)
            if source.is_dir():
                shutil.copytree(source, self.folder / target, symlinks=True)
            else:
                shutil.copy2(source, self.folder / target)

    def files(self) -> dict[str, str]:
        """All files that can be read, with their digests."""
        found = {}
        for path in sorted(self.folder.rglob("*")):
            if path.is_file() and path.resolve().is_relative_to(self.folder.resolve()):
                found[str(path.relative_to(self.folder))] = sha256(path.read_bytes()).hexdigest()
        return found

    def call(self, attempt: Attempt) -> Outcome:
        """The command, in this process and in the folder."""
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            patch.chdir(self.folder)
            patch.setattr(sys, "argv", ["wm-jax", *attempt.arguments])
            if not attempt.real:
                patch.setattr(acting, "LaneEnvs", HereLanes)
            if attempt.works:
                # A run's report is half of its time: `wm-jax report` draws it in earnest.
                patch.setattr(Figure, "savefig", lambda figure, target, **how: target.write(BLANK))
            else:
                patch.setattr(running, "_run", cut)
            named = suite.named
            patch.setattr(suite, "named", lambda name, config: (named(name, config), cut)[1])
            patch.setattr(suite, "of_experiment", lambda experiment, config: cut)
            if attempt.users:
                # What Python says of a user's own file is theirs to see.
                warnings.simplefilter("ignore")
            return _call(attempt.encoding)


def _call(encoding: str) -> Outcome:
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict", write_through=True)
    err = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace", write_through=True)
    code, trace = 0, ""
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _limited():
        try:
            __main__.main()
        except SystemExit as end:
            code = end.code or 0
        except Hang as hang:
            code, trace = (
                None,
                f"took more than {SECONDS} s, in\n" + "".join(traceback.format_tb(hang.__traceback__)[-3:]),
            )
        except BaseException:
            code, trace = None, traceback.format_exc()
    return Outcome(code, _text(out), _text(err), trace)


def _text(stream: io.TextIOWrapper) -> str:
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue().decode(stream.encoding)


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def ring(number: int, frame: object) -> NoReturn:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def make(stored: Path, folder: Path) -> Sandbox:
    """Run tiny.py, stopped in between, and keep what there was each time; then export it."""
    stored.mkdir()
    shutil.copy(HERE / "tiny.py", stored)
    shutil.copy(HERE.parent / "probe_task.py", stored)
    box = Sandbox(stored, folder)
    box.fresh()
    run = folder / "run"
    work = Attempt(["run", "tiny.py", "--run-dir", "run"], "", works=True)
    for state, pattern in STOPS.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(running, "Interrupt", lambda pattern=pattern: StopsAt(run, pattern))
            outcome = box.call(work)
        assert outcome.code == 130, outcome
        shutil.copytree(run, stored / state)
    outcome = box.call(work)
    assert outcome.code == 0, outcome
    shutil.copytree(run, stored / FINISHED)
    outcome = box.call(Attempt(["export", "run", "tiny.safetensors"], ""))
    assert outcome.code == 0, outcome
    shutil.copy(folder / "tiny.safetensors", stored)
    return box


NO_NUMBER = re.compile(r"""(?<![\w./'"-])[-+]?(nan|inf|infinity)\b""", re.IGNORECASE)
RESULTS = re.compile(
    r"run/(vision|memory|controller|latents|rollouts|evaluation)/round-\d/(?!work/|stage\.json).+|run/evaluation\.json"
)
"""What must come out the same."""


def faults(attempt: Attempt, outcome: Outcome, before: dict[str, str], after: dict[str, str]) -> list[str]:
    """What is not as it should be after an attempt."""
    return [*_said(attempt, outcome), *_lost(attempt, before, after), *_left(before, after)]


def _said(attempt: Attempt, outcome: Outcome) -> list[str]:
    """A failure is one clear sentence, a success has no number that is none."""
    if outcome.trace:
        return ["ended in a traceback"]
    text, wrong = outcome.out + outcome.err, []
    traced = "Traceback" in text
    if traced and not (attempt.users and attempt.users in outcome.err):
        wrong.append("printed a traceback")
    if outcome.code == 0 and NO_NUMBER.search(text):
        wrong.append("succeeded with a number that is none")
    if outcome.code in (1, 130):
        messages = re.findall(r"^wm-jax: (.*)", outcome.err, re.MULTILINE)
        if len(messages) != 1 or not messages[0].strip():
            wrong.append(f"said {len(messages)} sentences")
        elif not traced and not outcome.err.startswith("wm-jax: "):
            wrong.append("said more than its sentence")
    elif outcome.code == 2:
        if not outcome.err.strip() and not outcome.out.strip():
            wrong.append("said nothing of the wrong usage")
    elif outcome.code != 0:
        wrong.append(f"ended with exit code {outcome.code}")
    return wrong


def _lost(attempt: Attempt, before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Files that were whole and are gone or others, without anybody's asking for it."""
    if attempt.redo:
        return []
    wrong = []
    for name, digest in before.items():
        if after.get(name) == digest or _is_spoilt(attempt, name) or _may_change(attempt, name):
            continue
        wrong.append(f"{name} is {'another one' if name in after else 'gone'}")
    return wrong


def _is_spoilt(attempt: Attempt, name: str) -> bool:
    return any(name == spoilt or name.startswith(f"{spoilt}/") for spoilt in attempt.spoilt)


def _may_change(attempt: Attempt, name: str) -> bool:
    """Whether the command is there to write this file."""
    command = attempt.arguments[0] if attempt.arguments else ""
    if command == "report":
        return "/report/" in f"/{name}"
    if command == "run":
        passing = ["/work/", "/report/", "/figures/", ".lock", "config.json", "metrics.jsonl", "stage.json"]
        # An index tells what its episodes say of themselves.
        passing += [] if attempt.exact else ["index.jsonl"]
        return any(part in name for part in passing) or name == "run/evaluation.json"
    return False


def _left(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Unfinished files that were not there before."""
    new = after.keys() - before.keys()
    return [f"{name} is left" for name in sorted(new) if ".unfinished" in name or "/writing-" in name]


def other_results(box: Sandbox, attempt: Attempt, after: dict[str, str]) -> list[str]:
    """Results that are not those of the run that was left alone."""
    reference = {f"run/{path.relative_to(box.stored / FINISHED)}": path for path in (box.stored / FINISHED).rglob("*")}
    names = {name for name, path in reference.items() if path.is_file() and RESULTS.fullmatch(name)}
    return [
        f"{name} is not as it was" for name in sorted(names)
        if not _is_spoilt(attempt, name) and after.get(name) != sha256(reference[name].read_bytes()).hexdigest()
    ]  # fmt: skip
