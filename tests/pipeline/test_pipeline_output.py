"""What is printed never ends a command, and every error ends it with the right words: a sentence, a traceback, or both."""

import errno
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import jax
import jax.numpy as jnp
import pytest

from wm_jax import cli, parallel
from wm_jax.data.files import write_json
from wm_jax.errors import ForeignError, UserError
from wm_jax.experiment import load
from wm_jax.pipeline import exporting, reporting
from wm_jax.pipeline.progress import Screen
from wm_jax.registry import load_parts

SCORE = {"mean": 1.0, "sd": 0.5, "se": 0.25, "n": 4}


def run(monkeypatch: pytest.MonkeyPatch, work: Callable[[], None], *more: str) -> object:
    """The exit code of a command that does `work`."""
    monkeypatch.setitem(cli.COMMANDS, "info", lambda arguments: work())
    monkeypatch.setattr("sys.argv", ["wm-jax", "info", *more])
    try:
        cli.main()
    except SystemExit as end:
        return end.code
    return 0


def fails(error: Exception) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


def stand_in_for_scoring(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bundle:
        class stored:
            notes, warnings = ("τ ± ≥",), ()

    monkeypatch.setattr("wm_jax.pipeline.bundle.load", lambda *_: Bundle)
    monkeypatch.setattr("wm_jax.pipeline.scoring.score_bundle", lambda *_: SCORE)


def pipe_without_reader() -> TextIO:
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


def device(path: str) -> TextIO:
    return os.fdopen(os.open(path, os.O_WRONLY), "w")


def closed() -> TextIO:
    stream = device(os.devnull)
    stream.close()
    return stream


STREAMS = {
    "ascii": (lambda: io.TextIOWrapper(io.BytesIO(), encoding="ascii"), 0),
    "pipe without a reader": (pipe_without_reader, 0),
    "closed": (closed, 0),
}
if Path("/dev/full").exists():
    STREAMS["full disk"] = (lambda: device("/dev/full"), 1)


@pytest.mark.parametrize("kind", STREAMS)
def test_a_score_is_kept_whatever_takes_the_output(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in_for_scoring(monkeypatch)
    make, code = STREAMS[kind]
    stream, path = make(), tmp_path / "score.json"
    monkeypatch.setattr("sys.stdout", stream)
    assert run(monkeypatch, lambda: cli.evaluate(["mine", "--json", str(path)])) == code
    assert json.loads(path.read_text()) == SCORE
    assert sys.stdout is stream
    said = capsys.readouterr().err
    if kind == "ascii":
        stream.seek(0)
        assert stream.read() == "\\u03c4 \\xb1 \\u2265\nmine: 1.0 \\xb1 0.5 (standard error 0.2, n = 4)\n"
    if code:
        assert said == "wm-jax: some output could not be printed: No space left on device; free space there\n"
    else:
        assert said == ""
    if kind != "closed":
        # Nothing is left in it that would fail when Python ends.
        stream.close()


def test_a_score_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in_for_scoring(monkeypatch)
    arguments = ["mine", "--json", str(tmp_path / "score.json")]

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        assert run(monkeypatch, lambda: cli.evaluate(arguments)) == 1
    printed = capsys.readouterr()
    assert "mine: 1.0 ± 0.5" in printed.out
    assert "score.json: No space left on device; free space there" in printed.err
    # What cannot be written is said before the episodes are played.
    monkeypatch.setattr("wm_jax.pipeline.scoring.score_bundle", lambda *_: pytest.fail("played"))
    assert run(monkeypatch, lambda: cli.evaluate(["mine", "--json", str(tmp_path)])) == 1
    assert "Is a directory" in capsys.readouterr().err


def test_results_are_written_before_they_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of a benchmark, whose table is drawn by rich."""
    from wm_jax.bench import suite, table

    shown = []
    path = tmp_path / "rows.json"
    path.write_text('{"before": 1}')
    monkeypatch.setattr(suite, "warn_if_busy", lambda screen: None)
    result = table.Result("sizes", (table.Row("dream", 3.0, "steps/s"),))

    def measure(screen: Screen) -> table.Result:
        assert json.loads(path.read_text()) == {"before": 1}, "the last report goes when there is a new one"
        return result

    monkeypatch.setattr(suite, "named", lambda *_: measure)
    monkeypatch.setattr(table, "show", lambda *_: shown.append(json.loads(path.read_text())["rows"][0]["value"]))
    cli.bench(["dream", "--json", str(path)])
    assert shown == [3.0]


def test_closed_streams_lead_nowhere(tmp_path: Path) -> None:
    """The first file that is opened would be number 1, and get what is printed by workers and libraries."""
    program = (
        "import os, sys; from wm_jax import command\n"
        "with command.ending():\n"
        f"    with open({str(tmp_path / 'file')!r}, 'w') as file:\n"
        "        os.write(1, b'from C'); print('said'); os.system('echo from a worker')\n"
        "        assert file.fileno() > 2\n"
    )
    done = subprocess.run(["sh", "-c", f'{sys.executable} -c "$0" >&- <&-', program], stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "file").read_text() == ""


def test_a_users_own_error_has_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = ForeignError("frame of mine.py raised ValueError: no", "Traceback of a worker\nValueError: no\n")
    assert run(monkeypatch, fails(error)) == 1
    said = capsys.readouterr().err
    assert said == "Traceback of a worker\nValueError: no\nwm-jax: frame of mine.py raised ValueError: no\n"


@pytest.mark.parametrize("error", [UserError("the sentence"), parallel.SharedError("the sentence")])
def test_debug_shows_every_traceback(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, fails(error)) == 1
    assert capsys.readouterr().err == "wm-jax: the sentence\n"
    for more in (["--debug"], ["x", "--debug", "y"]):
        assert run(monkeypatch, fails(error), *more) == 1
        said = capsys.readouterr().err
        assert said.startswith("Traceback") and "in fails\n" not in said and "in work" in said
        assert said.endswith(
            f"{type(error).__module__}.{type(error).__qualname__}: the sentence\nwm-jax: the sentence\n"
        )


def test_where_jax_is_to_stop_is_shown_and_why_it_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        with jax.debug_nans(True):
            jnp.log(jnp.float32(-1)).block_until_ready()

    assert run(monkeypatch, work) == 1
    said = capsys.readouterr().err
    assert said.startswith("Traceback") and "in work" in said
    assert said.splitlines()[-1].startswith("wm-jax: JAX_DEBUG_NANS or JAX_DEBUG_INFS stopped the program (")

    def transfer() -> None:
        with jax.transfer_guard("disallow"):
            jnp.add(jnp.zeros(3, jnp.float32), 1.0)

    assert run(monkeypatch, transfer) == 1
    said = capsys.readouterr().err
    assert (
        said.startswith("wm-jax: JAX_TRANSFER_GUARD blocks a transfer that every command needs (")
        and said.count("\n") == 1
    )


def test_commands_are_not_told_of_debug(monkeypatch: pytest.MonkeyPatch) -> None:
    got = []
    monkeypatch.setitem(cli.COMMANDS, "info", got.append)
    monkeypatch.setattr("sys.argv", ["wm-jax", "info", "a", "--debug", "b"])
    cli.main()
    assert got == [["a", "b"]]


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "/a/b"),
            "Permission denied (/a/b); change its permissions",
        ),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files; allow more open files (`ulimit -n 4096`)"),
        (ModuleNotFoundError("No module named 'rich'"), "a library is missing or incompatible: No module named 'rich'"),
    ],
)
def test_refusals_elsewhere_are_told_too(
    error: Exception, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, fails(error)) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"wm-jax: {says}") and "Traceback" not in said


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file or directory", "x"),
        OSError("of a library"),
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
        ImportError("cannot import name 'x' from 'wm_jax.run'"),
        ValueError("a defect"),
    ],
)
def test_what_may_be_a_defect_keeps_its_traceback(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(type(error)) as caught:
        run(monkeypatch, fails(error))
    assert caught.value is error


@pytest.mark.parametrize(
    ("platform", "error"),
    [("cuda", AssertionError()), ("nonsense", RuntimeError("Unable to initialize backend 'nonsense': unknown\nmore"))],
)
def test_a_backend_that_is_not_there_is_one_sentence(
    platform: str, error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As JAX 0.10 fails on a machine without it; in-process it has its devices already."""

    def missing() -> None:
        raise error

    monkeypatch.setattr("jax.devices", missing)
    monkeypatch.setenv("JAX_PLATFORMS", platform)
    assert run(monkeypatch, lambda: pytest.fail("begun")) == 1
    said = capsys.readouterr().err
    reason = str(error).splitlines()[0] if str(error) else "AssertionError"
    assert said.startswith(f"wm-jax: JAX finds no device with JAX_PLATFORMS={platform} ({reason}); set ")
    assert said.count("\n") == 1
    # Help needs none.
    assert run(monkeypatch, lambda: None, "--help") == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import nowhere", "ModuleNotFoundError: No module named 'nowhere'"),
        ("def make():\n    return 1 / 0\nmake()", "ZeroDivisionError: division by zero"),
        ("raise OSError(28, 'No space left on device')", "OSError: [Errno 28] No space left on device"),
    ],
)
def test_a_file_of_ones_own_that_fails_has_its_traceback(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    for what, read in (("experiment", load), ("parts file", load_parts)):
        with pytest.raises(ForeignError) as caught:
            read(path)
        assert str(caught.value) == f"{what} {path} cannot be run: {says}"
        assert f'File "{path}", line' in caught.value.trace and says in caught.value.trace


def test_what_a_line_says_alone_has_none(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("x = 1\nCONFIG = (")
    for read in (load, load_parts):
        with pytest.raises(UserError, match=r"mine\.py cannot be run: SyntaxError: .* \(mine\.py, line 2\)"):
            read(path)


def test_export_writes_over_what_is_its_own_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Loaded(Exception):
        pass

    def found(*_: object) -> None:
        raise Loaded

    monkeypatch.setattr(exporting.bundle, "load", found)
    file, card = tmp_path / "mine.safetensors", tmp_path / "mine.md"
    with pytest.raises(Loaded):
        exporting.export(tmp_path, file, half=False)
    card.write_text("# mine\n\nMy notes on World Models.")
    with pytest.raises(UserError, match=r"mine\.md exists and is not a model card: it is not overwritten"):
        exporting.export(tmp_path, file, half=False)
    pretrained = Path(__file__).parents[2] / "wm_jax" / "pretrained"
    card.write_bytes((pretrained / "take_cover.md").read_bytes())
    for other in (b"", b'{"__metadata__":{"wm_jax":"{\\"about\\": {\\"model\\": \\"vision\\"}'):
        file.write_bytes(other)
        with pytest.raises(UserError, match=r"mine\.safetensors exists and is not a bundle: it is not overwritten"):
            exporting.export(tmp_path, file, half=False)
    file.write_bytes((pretrained / "take_cover.safetensors").read_bytes())
    with pytest.raises(Loaded):
        exporting.export(tmp_path, file, half=False)


@pytest.mark.parametrize("name", ["report.html", "report.md", "scores.json"])
def test_a_report_is_not_written_over_something_else(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=rf"{name} exists and is not a wm-jax report: it is not overwritten"):
        reporting.report([tmp_path / "run"], tmp_path)
    (tmp_path / "report.html").write_text('<head><meta name="generator" content="wm-jax">')
    with pytest.raises(UserError, match="is not a run folder"):
        reporting.report([tmp_path / "run"], tmp_path)


def test_scores_are_told_although_the_films_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the report is there before they are, where nothing fails."""
    from wm_jax.pipeline import running

    order: list[str] = []

    class Context:
        experiment = type("E", (), {"rounds": type("R", (), {"count": 1})})
        run = type("Run", (), {"path": tmp_path, "figures": tmp_path})
        screen = type("Screen", (), {"say": staticmethod(lambda message: None)})

        @staticmethod
        def stage(name: str, number: int) -> object:
            return type("Stage", (), {"path": tmp_path / name})

    done = type("Step", (), {"folder": staticmethod(lambda run: type("Folder", (), {"finished": True}))})
    monkeypatch.setattr(running, "plan", lambda experiment: [done])
    monkeypatch.setattr(running, "_tell_scores", lambda context: order.append("told"))
    monkeypatch.setattr(running.filming, "make_films", lambda *_: order.append("films"))
    monkeypatch.setattr(running.reporting, "report", lambda *_: [order.append("report")])
    write_json(tmp_path / "evaluation" / "evaluation.json", {"controller": SCORE})
    running._end(Context)  # type: ignore[arg-type]
    assert order == ["films", "report", "told"]
    assert json.loads((tmp_path / "evaluation.json").read_text()) == {"controller": SCORE}
    monkeypatch.setattr(running.filming, "make_films", lambda *_: fails(UserError("full"))())
    with pytest.raises(UserError, match="full"):
        running._end(Context)  # type: ignore[arg-type]
    assert order[3:] == ["told"]
