"""Whatever is malformed, at random: a command ends with one clear sentence and no traceback, and nothing is lost.

Each case follows from its number. More of them than in CI by hand, on all cores, and one again by its name:

    WM_JAX_FUZZ=5000 pytest tests/fuzz --dist load
    WM_JAX_FUZZ=5000 pytest "tests/fuzz/test_fuzz.py::test_settings[1234]"
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import fuzz_sandbox as sandbox
import fuzz_values as values
import pytest
from fuzz_sandbox import Attempt, Sandbox

from wm_jax.experiment import flatten, load

pytestmark = pytest.mark.whole

CASES = int(os.environ.get("WM_JAX_FUZZ", "300"))
"""In all."""
SHARES = {"bundles": 0.15, "runs": 0.3, "settings": 0.2, "experiments": 0.1, "tasks": 0.1, "arguments": 0.15}
"""How many of them are of each kind."""
ODD_WORDS = [
    "", " ", "0", "1", "-1", "2", "3", "0.5", "-0.0", "1e9", "1e400", "1e-320", "nan", "inf", "-inf", "9" * 20, "None",
    "True", "False", "x", "é日本", "\udcff", "a" * 5000, "x[1]", "[]", "[1,2]", "*", "a b", "a\nb", "../x", ".", "..",
    "/dev/null", "/dev/null/x", "/proc/x", "tiny.py", "probe_task.py", "nowhere.py", "run", "tiny.safetensors", "--", "-",
    "-h", "--help", "--x", "--seed", "=", "--seed=", "car_racing", "take_cover", "policy_gradient", "cma_es", "noise",
    "mlp", "actual", "dream", "random", "centre", "vision", "collect", "evolve",
]  # fmt: skip
COMMANDS = [
    "run tiny.py --run-dir run",
    "run tiny.py --run-dir run --redo",
    "run tiny.py --run-dir run --stages vision memory --redo",
    "run tiny.py --run-dir other --reuse run",
    "run tiny.py --run-dir other --seed 3 --initial tiny.safetensors",
    "info tiny.py --json",
    "info tiny.py --dream.temperature 0.5 --search.kind policy_gradient",
    "evaluate run --episodes 2 --seed 7 --json score.json",
    "evaluate tiny.safetensors --episodes 2 --task probe_task.py",
    "export run other.safetensors --half",
    "report run --out pages --task probe_task.py",
    "bench dream --json bench.json",
    "bench tiny.py",
]


def numbers(kind: str) -> Any:
    return pytest.mark.parametrize("number", range(round(CASES * SHARES[kind])))


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory, quick_compilation: None) -> Iterator[Sandbox]:
    folder = tmp_path_factory.mktemp("fuzz")
    yield sandbox.make(folder / "stored", folder / "case")


def attempt(box: Sandbox, case: Attempt) -> None:
    """Make the attempt; fails with all that one needs to see."""
    before = box.files()
    outcome = box.call(case)
    after = box.files()
    wrong = sandbox.faults(case, outcome, before, after)
    if outcome.code == 0 and case.works and case.exact and case.arguments[0] == "run":
        wrong += sandbox.other_results(box, case, after)
    assert not wrong, (
        f"{'; '.join(wrong)}\nmalformed: {case.what}\ncommand: wm-jax {case.arguments}\nexit code: {outcome.code}\n"
        f"stdout: {outcome.out[-2000:]}\nstderr: {outcome.err[-6000:]}\n{outcome.trace[-6000:]}"
    )


def encoding(random: Random) -> str:
    return random.choice(["utf-8"] * 5 + ["ascii"])


@numbers("bundles")
def test_bundles(number: int, box: Sandbox) -> None:
    random = Random(f"bundles {number}")
    box.fresh("tiny.safetensors")
    path = box.folder / "tiny.safetensors"
    match random.choice(["bytes", "ours", "ours", "ours", "entry"]):
        case "bytes":
            data, what = values.odd_bytes(random, path.read_bytes())
            path.write_bytes(data)
        case "ours":
            what = values.odd_weights(random, path)
        case _:
            what = values.odd_entry(random, path)
    command = random.choice(
        ["evaluate tiny.safetensors --episodes 2 --json score.json"] * 3
        + ["run tiny.py --run-dir run --initial tiny.safetensors --seed 3"]
    )
    attempt(box, Attempt(command.split(), what, {path.name}, encoding=encoding(random)))
    score = box.folder / "score.json"
    if score.exists():
        told = json.loads(score.read_text())
        assert told["n"] == 2 and all(0 <= value <= 80 for value in told["returns"]), told


@numbers("runs")
def test_runs(number: int, box: Sandbox) -> None:
    random = Random(f"runs {number}")
    state = random.choice([sandbox.FINISHED, sandbox.FINISHED, *sandbox.STOPS])
    box.fresh(f"run:{state}")
    what, spoilt, exact = [], set(), True
    for _ in range(random.choice([1, 1, 1, 2])):
        told, name, same = _spoil_run(random, box.folder / "run", spoilt)
        what.append(f"{name}: {told}")
        spoilt.add(name)
        exact &= same
    commands = ["run tiny.py --run-dir run"] * 4 + ["run tiny.py --run-dir other --reuse run", "report run"]
    if state == sandbox.FINISHED:
        commands += ["evaluate run --episodes 2 --json score.json", "export run other.safetensors"]
    command = random.choice(commands).split()
    works = "other" not in command
    case = Attempt(
        command, f"run {state}, " + "; ".join(what), spoilt, works=works, exact=exact, encoding=encoding(random)
    )
    attempt(box, case)


def _spoil_run(random: Random, run: Path, spoilt: set[str]) -> tuple[str, str, bool]:
    """What is done, to which file or folder, and whether this should be noticed: nobody can notice another number in a
    JSON file, or in an array with the right checksum."""
    entries = [
        path for path in sorted(run.rglob("*")) if not {"report", "figures"} & {*path.parts} or random.random() < 0.1
    ]
    path = random.choice([path for path in entries if str(path.relative_to(run.parent)) not in spoilt])
    name, small = str(path.relative_to(run.parent)), path.suffix in (".json", ".jsonl")
    if path.is_dir() and random.random() < 0.3:
        other = path / random.choice(
            ["thesis.txt", ".x.unfinished", "writing-7", "000000099", "x y", "é", "stage.json"]
        )
        if not other.exists():
            other.mkdir() if random.random() < 0.3 else other.write_text("precious")
            return "a stranger", str(other.relative_to(run.parent)), True
    if path.is_dir() or path.is_symlink() or random.random() < 0.25:
        return values.odd_entry(random, path), name, True
    if small and path.stat().st_size > 1 and random.random() < 0.8:
        text, what = values.odd_json_text(random, path.read_text())
        path.write_text(text)
        return what, name, False
    if path.suffix == ".safetensors" and random.random() < 0.5:
        return values.odd_weights(random, path), name, False
    if path.suffix == ".array_record" and random.random() < 0.5:
        return values.odd_records(random, path), name, False
    data, what = values.odd_bytes(random, path.read_bytes())
    path.write_bytes(data)
    return what, name, not small


@numbers("settings")
def test_settings(number: int, box: Sandbox) -> None:
    random = Random(f"settings {number}")
    box.fresh("run:finished")
    settings = flatten(load(box.folder / "tiny.py"))
    arguments, names = [], random.choices(sorted(settings), k=random.choice([1, 1, 2, 3]))
    for name in names:
        flag, value = "--" + random.choice([name, name.replace("_", "-")]), settings[name]
        word = random.choice(ODD_WORDS)
        if isinstance(value, bool):
            arguments.append(random.choice([flag, flag[:2] + "no-" + flag[2:], f"{flag}={word}"]))
        elif isinstance(value, int | float) and random.random() < 0.5:
            arguments += [flag, str(type(value)(value * random.choice([-1, 0, 2, 1000]) + random.choice([-1, 0, 1])))]
        else:
            arguments += random.choice(
                [[flag, word], [f"{flag}={word}"], [flag], [flag, word, random.choice(ODD_WORDS)]]
            )
    command = random.choice(
        ["info tiny.py", "info tiny.py --json", "run tiny.py --run-dir run", "run tiny.py --run-dir new"]
    )
    attempt(box, Attempt([*command.split(), *arguments], "the settings", encoding=encoding(random)))


@numbers("experiments")
def test_experiments(number: int, box: Sandbox) -> None:
    random = Random(f"experiments {number}")
    box.fresh("run:finished")
    path = box.folder / "tiny.py"
    data, what = values.odd_python(random, path.read_text())
    path.write_bytes(data)
    command = random.choice(["info tiny.py", "run tiny.py --run-dir run", "run tiny.py --run-dir new", "bench tiny.py"])
    attempt(box, Attempt(command.split(), what, {path.name}, users=path.name, encoding=encoding(random)))


@numbers("tasks")
def test_tasks(number: int, box: Sandbox) -> None:
    random = Random(f"tasks {number}")
    box.fresh("run:finished", "tiny.safetensors")
    path = box.folder / "probe_task.py"
    data, what = values.odd_python(random, path.read_text())
    path.write_bytes(data)
    commands = ["info tiny.py", "run tiny.py --run-dir run", "run tiny.py --run-dir new", "report run"]
    if random.random() < 0.3:
        # In processes of their own, as environments are: each takes seconds.
        commands = [
            "evaluate tiny.safetensors --episodes 2 --json score.json",
            "run tiny.py --run-dir new --stages collect",
        ]
    command = random.choice(commands).split()
    work = command[0] == "evaluate" or "--stages" in command
    attempt(box, Attempt(command, what, {path.name}, users=path.name, works=work, real=work, exact=False))
    score = box.folder / "score.json"
    if score.exists():
        told = json.loads(score.read_text())
        assert told["n"] == 2, told


@numbers("arguments")
def test_arguments(number: int, box: Sandbox) -> None:
    random = Random(f"arguments {number}")
    box.fresh("run:finished", "tiny.safetensors")
    arguments = random.choice(COMMANDS).split()
    for _ in range(random.choice([1, 1, 2, 3])):
        place, word = random.randrange(len(arguments) + 1), random.choice(ODD_WORDS)
        match random.choice(["drop", "replace", "replace", "replace", "insert", "twice", "move", "join"]):
            case "drop":
                del arguments[place : place + 1]
            case "replace":
                arguments[place : place + 1] = [word]
            case "insert":
                arguments.insert(place, word)
            case "twice":
                arguments[place:place] = arguments[place : place + 2]
            case "move":
                random.shuffle(arguments)
            case _:
                arguments[place : place + 2] = ["=".join(arguments[place : place + 2])]
    case = Attempt(arguments, "the arguments", redo="--redo" in arguments, encoding=encoding(random))
    attempt(box, case)
