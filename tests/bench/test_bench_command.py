"""`wm-jax bench` and the script that makes all tables."""

import json
import runpy
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from wm_jax import cli
from wm_jax.bench import dream, references, scaling
from wm_jax.bench.config import BenchConfig
from wm_jax.bench.limit import operations
from wm_jax.bench.memory import training_products
from wm_jax.bench.table import Result, Row, as_json, from_json
from wm_jax.memory import Memory, MemoryConfig

pytestmark = [pytest.mark.whole, pytest.mark.usefixtures("quick_compilation")]

ROOT = Path(__file__).parents[2]
TINY = "--population 4 --rollouts 2 --horizon 40 --latent-size 4 --hidden-size 8 --mixtures 2 --seconds 0 --workers 1"


def command(monkeypatch, *arguments):
    """The exit code of `wm-jax bench`."""
    monkeypatch.setattr(sys, "argv", ["wm-jax", "bench", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as end:
        return end.code
    return 0


def test_report_has_a_headline_for_each_benchmark(tmp_path, monkeypatch):
    # Without the references, which take their time, and as where the package alone is installed.
    monkeypatch.setattr(references, "FOLDER", tmp_path / "none")
    file, task = tmp_path / "report.json", ROOT / "tests" / "probe_task.py"
    assert command(monkeypatch, "dream", "evolve", "collect", *TINY.split(), "--tasks", task, "--json", file) == 0
    report = json.loads(file.read_text())
    assert report["jax"] == jax.__version__ and report["precision"] == "tensorfloat32" and report["device"]
    rows = {row["name"]: row for row in report["rows"]}
    assert {"dream", "dream: vectorised, start anywhere", "evolve", "collect", "V, M, C drive: probe"} <= set(rows)
    assert not any("torch" in name for name in rows)
    for row in report["rows"]:
        assert {"name", "value", "unit", "limit", "ratio", "against"} <= set(row)
        assert row["value"] > 0
        assert row["ratio"] == (None if row["limit"] is None else pytest.approx(row["value"] / row["limit"]))
        assert (row["limit"] is None) == (row["against"] == "")


@pytest.mark.slow
def test_every_benchmark_runs_beside_its_references(tmp_path, monkeypatch):
    file, names = tmp_path / "report.json", ("dream", "vision", "memory", "rssm", "scaling")
    sizes = (*TINY.split(), "--frames", 2, "--sequences", 2, "--sequence-length", 4)
    assert command(monkeypatch, *names, *sizes, "--json", file) == 0
    report = json.loads(file.read_text())
    assert list(report["sizes"]) == list(names)
    assert sum("PyTorch" in row["against"] for row in report["rows"]) == 6
    scaling.figure(tmp_path / "figure.png", from_json(report)["scaling"].rows, "title")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["dreams"], "did you mean 'dream'"),
        (["dream", "--rollouts", "0"], "rollouts must be at least 1, found 0"),
        (["dream", "--json", "/dev/null/report.json"], "cannot write /dev/null/report.json"),
    ],
)
def test_mistakes_are_told_before_any_work(arguments, words, monkeypatch, capsys):
    monkeypatch.setattr("wm_jax.bench.suite.measure", lambda *_: pytest.fail("measured"))
    assert command(monkeypatch, *arguments) == 1
    assert words in capsys.readouterr().err


def test_dreams_that_die_do_so_all_over_the_horizon():
    setup = dream.set_up(BenchConfig(population=8, rollouts=8, horizon=60, latent_size=8, hidden_size=16))
    play, _ = dream.playing(setup)
    lengths = np.asarray(play(dream.mortal(setup)))
    np.testing.assert_array_equal(play(setup.params), 60)
    assert lengths.mean() < 30 and lengths.max() > 30 and len(np.unique(lengths)) > 5


def test_operations_of_the_papers_dream():
    # 64 + 1 + 1 inputs and 512 units to 2048 gates; 512 units to 961 outputs: 3.35 MFLOP a step.
    setup = dream.set_up(BenchConfig(horizon=2100))
    assert operations([setup.products()]) == 64 * 16 * 2100 * 2 * (578 * 2048 + 512 * 961)


def test_operations_of_training_are_three_times_those_of_the_prediction():
    memory = Memory(MemoryConfig(hidden_size=8, mixtures=2, batch_size=3, sequence_length=5), 4, 2)
    forward = 2 * 3 * 5 * ((6 + 8) * 32 + 8 * memory.output_size)
    # But for the gradient by what M is fed, which nobody needs.
    assert operations(training_products(memory)) == 3 * forward - 2 * 3 * 5 * 6 * 32


def test_a_report_can_be_read_again():
    results = {
        "dream": Result("64 × 16", (Row("dream", 2.0, "steps/s", 4.0, "products"), Row("dream: x", 1.0, "s"))),
        "vision": Result("batches of 100", (Row("vision", 3.0, "images/s"),)),
    }
    report = json.loads(json.dumps(as_json(results, {"device": "a"})))
    assert from_json(report) == results
    assert report["rows"][0]["ratio"] == 0.5 and report["rows"][2]["ratio"] is None


def test_readme_holds_the_tables_of_all_devices(tmp_path):
    script = runpy.run_path(str(ROOT / "benchmarks" / "run_all.py"))
    (tmp_path / "results").mkdir()
    for device in ("a", "b"):
        result = Result("sizes", (Row("dream", 2000.0, "steps/s", 4000.0, "products"),))
        report = as_json({"dream": result}, {"device": device, "jax": "1", "precision": "float32"})
        (tmp_path / "results" / f"{device}.json").write_text(json.dumps(report))
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{script['BEGIN']}old\n{script['END']}\nafter\n")
    for _ in range(2):
        script["write_readme"](tmp_path)
        text = readme.read_text()
        assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
        assert [line for line in text.splitlines() if line.startswith("## ")] == ["## a", "## b"]
        assert text.count("| dream | 2,000 steps/s | 4,000 | 0.5 | products |") == 2
