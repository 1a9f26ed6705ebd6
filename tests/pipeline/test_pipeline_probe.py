"""The whole loop, for real and small: on an environment whose best controller is known it must be found, in dreams only."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from io import StringIO
from pathlib import Path

import format_1
import gymnasium
import jax
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from PIL import Image
from rich.console import Console

from wm_jax import cli
from wm_jax.actors import protocol as actors
from wm_jax.data.weights import load_weights
from wm_jax.errors import UserError
from wm_jax.experiment import load as load_experiment
from wm_jax.pipeline.bundle import load
from wm_jax.pipeline.exporting import export
from wm_jax.pipeline.info import describe
from wm_jax.pipeline.progress import Screen
from wm_jax.pipeline.reporting import read
from wm_jax.pipeline.running import run_experiment

pytestmark = pytest.mark.whole


@pytest.fixture(scope="module")
def run(probe_experiment: Path, compilation_cache: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("probe") / "run"
    wm_jax_command(compilation_cache, "run", str(probe_experiment), "--run-dir", str(folder))
    return folder


def contents(folder: Path) -> dict[str, tuple[int, str]]:
    """When each file was last written, and a digest of it."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(f): (f.stat().st_mtime_ns, hashlib.sha256(f.read_bytes()).hexdigest()) for f in files}


def wm_jax_command(environment: dict[str, str], *arguments: str) -> str:
    command = [sys.executable, "-m", "wm_jax", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_best_controller_is_found_in_dreams_only(run: Path) -> None:
    """The best scores above 75 of 80 (tests/probe_task.py), the random policy about 11."""
    scores = json.loads((run / "evaluation.json").read_text())
    assert scores["random"]["mean"] < 30
    assert scores["controller"]["mean"] > 70
    assert scores["controller"]["selected_by"] == "dream"
    assert scores["controller"]["n"] == 16
    assert abs(scores["controller"]["dream"]["mean"] - scores["controller"]["mean"]) < 10


def test_M_knows_what_comes_next(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    report = [line for line in lines if "held_out_nll" in line][-1]
    assert report["held_out_done_recall"] > 0.5
    assert report["held_out_reward_correlation"] > 0.9
    # Of episodes that it was trained on it knows no less; not the same ones, so not the same number.
    assert report["trained_nll"] < report["held_out_nll"] + 0.1 and report["trained_nll"] != report["held_out_nll"]
    assert report["held_out_open_loop_5"] < min(
        report["held_out_open_loop_5_repeat_last"], report["held_out_open_loop_5_data_mean"]
    )


def test_films_are_made_and_a_report_is_written(run: Path) -> None:
    pictures = [*(run / "figures").iterdir(), *(run / "report" / "report-pictures").iterdir()]
    names = {path.name for path in pictures}
    charts = {f"run1-{chart}.png" for chart in ("population", "means", "sigma", "vision", "memory", "returns")}
    assert charts | {"film_strip.png", "film.gif"} <= names
    assert any(name.startswith("reconstructions-round0") for name in names)
    for path in pictures:
        with Image.open(path) as image:
            assert np.asarray(image.convert("RGB")).std() > 1, f"{path} is blank"
    assert {"report.html", "report.md", "scores.json"} <= {path.name for path in (run / "report").iterdir()}


def test_a_bundle_acts_as_the_run_does(
    run: Path, probe_experiment: Path, compilation_cache: dict[str, str], tmp_path: Path
) -> None:
    bundle, scores = tmp_path / "probe.safetensors", [tmp_path / "a.json", tmp_path / "b.json"]
    task = Path(load_experiment(probe_experiment).task)
    wm_jax_command(compilation_cache, "export", str(run), str(bundle))
    assert bundle.stat().st_size < 32 * 2**20
    assert "wm-jax evaluate probe.safetensors" in bundle.with_suffix(".md").read_text()
    card = export(run, tmp_path / "half.safetensors", half=True)
    assert card == tmp_path / "half.md" and "world model float16, C float32" in card.read_text()
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * bundle.stat().st_size
    for file in tmp_path.iterdir():
        for folder in (run.parent, tmp_path, task.parent):
            assert str(folder).encode() not in file.read_bytes(), f"{file} tells of {folder}"
    for source, path in zip(((run,), (bundle, "--task", task)), scores, strict=True):
        options = ("--episodes", "3", "--seed", "7", "--json", str(path))
        wm_jax_command(compilation_cache, "evaluate", *map(str, source), *options)
    first, second = (json.loads(path.read_text()) for path in scores)
    assert first == second
    assert set(first) >= {"mean", "sd", "se", "n", "returns", "seeds", "device", "versions"}
    assert first["seeds"] == [7, 8, 9]
    whole = bundle.read_bytes()
    bundle.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"probe\.safetensors is damaged"):
        load(bundle)


def test_a_run_of_format_1_is_read_as_it_is(
    run: Path, probe_experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By every command; run again it is finished, and nothing of it is written anew but its settings."""
    old, experiment = tmp_path / "old", load_experiment(probe_experiment)
    shutil.copytree(run, old)
    format_1.make_run(old, experiment.task)
    note = f"{old / 'config.json'} has format 1; the current format is 2: settings are now grouped by part"
    ours, theirs = load(run), load(old)
    assert theirs.stored.format == 1 and theirs.experiment == ours.experiment
    for name in ("params", "weights", "recorded"):
        jax.tree.map(np.testing.assert_array_equal, getattr(theirs, name), getattr(ours, name))
    printed, scores = [], []
    for source in (old, run):
        cli.evaluate([str(source), "--episodes", "2", "--seed", "7", "--json", str(tmp_path / "score.json")])
        printed.append(" ".join(capsys.readouterr().out.split()))
        scores.append(json.loads((tmp_path / "score.json").read_text()))
    assert scores[0] == scores[1]
    assert [note in text for text in printed] == [True, False]
    cli.export([str(old), str(tmp_path / "old.safetensors")])
    assert note in " ".join(capsys.readouterr().out.split())
    exported = load(tmp_path / "old.safetensors", Path(experiment.task))
    assert exported.stored.format == 2
    jax.tree.map(np.testing.assert_array_equal, exported.weights, ours.weights)
    cli.report([str(old), "--out", str(tmp_path / "page")])
    assert note in " ".join(capsys.readouterr().out.split())
    ours, theirs = read(run, "run"), read(old, "run")
    for name in ("experiment", "parameters", "scores", "searches", "metrics", "reconstructions"):
        assert getattr(theirs, name) == getattr(ours, name), name
    before, screen = contents(old), Screen(Console(record=True, width=400))
    run_experiment(experiment, old, (), False, None, screen)
    told = screen.console.export_text()
    assert told.count("finished before") == 6 and note in told
    after = contents(old)
    written = {name for name in after if after[name] != before.get(name)}
    assert {Path(name).name for name in written if "report" not in Path(name).parts} == {
        ".lock", "config.json", "evaluation.json"
    }  # fmt: skip
    assert load(old).stored.format == 2


def test_a_finished_run_films_only_what_is_missing_or_old(run: Path, probe_experiment: Path) -> None:
    def again() -> dict[str, int]:
        run_experiment(load_experiment(probe_experiment), run, (), False, None, Screen())
        return {path.name: path.stat().st_mtime_ns for path in (run / "figures").iterdir()}

    before = again()
    assert again() == before
    for spoil in (Path.unlink, lambda path: os.utime(path, (0, 0))):
        spoil(run / "figures" / "film.gif")
        after = again()
        assert {name for name in after if after[name] != before[name]} == {"film_strip.png", "film.gif"}
        before = after


@pytest.mark.parametrize("package", ["matplotlib", "PIL"])
def test_a_run_ends_well_where_nothing_can_draw(
    package: str, run: Path, probe_experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    said = StringIO()
    experiment = load_experiment(probe_experiment)
    run_experiment(experiment, run, (), False, None, Screen(Console(file=said, width=1000)))
    assert f"scores: {run / 'evaluation.json'}" in said.getvalue()
    assert 'no films and no report: pip install "wm-jax[report]"' in said.getvalue()


def test_the_dream_is_a_gymnasium_environment(run: Path) -> None:
    single = gymnasium.make("wm_jax/Dream-v0", run=str(run), render_mode="rgb_array")
    check_env(single.unwrapped)
    observation, _ = single.reset(seed=3)
    several = gymnasium.make_vec("wm_jax/Dream-v0", num_envs=5, run=str(run))
    observations, _ = several.reset(seed=3)
    assert observations.shape == (5, *observation.shape)
    np.testing.assert_allclose(observations[0], observation, atol=1e-5)
    returns = np.zeros(5)
    for _ in range(20):
        observations, rewards, _, _, _ = several.step(np.zeros((5, 1), np.float32))
        returns += rewards
    assert np.isfinite(observations).all()
    assert 0 < returns.mean() <= 21, "a reward of 1 - |x| a step"


def test_info_says_what_it_takes(probe_experiment: Path, compilation_cache: dict[str, str]) -> None:
    facts = json.loads(wm_jax_command(compilation_cache, "info", str(probe_experiment), "--json"))
    hidden, inputs, outputs = 32, 4 + 1 + 1, 4 * 3 * 2 + 2
    assert facts["parameters"]["memory"] == 4 * hidden * (inputs + hidden + 1) + (hidden + 1) * outputs
    assert facts["parameters"]["controller"] == 4 + hidden + 1
    # Two for each weight; the rest is what a small M's units and draws take beside its products.
    assert 2 <= facts["work"]["a dream step"] / facts["parameters"]["memory"] < 2.5
    for paper, expected in (
        ("take_cover", (4_446_915, 1_678_785, 1088)),
        ("car_racing_dream", (4_348_547, 422_625, 867)),
    ):
        path = Path(__file__).parents[2] / "experiments" / f"{paper}.py"
        assert tuple(describe(load_experiment(path))["parameters"].values()) == expected


def test_evolutions_run_side_by_side_and_all_are_scored(
    run: Path, probe_experiment: Path, compilation_cache: dict[str, str], tmp_path: Path
) -> None:
    """With the V and M of the run, with two temperatures and two seeds."""
    folder, before = tmp_path / "run", contents(run)
    settings = ["--evolve.generations", "10", "--evolve.temperatures", "0.7", "1.0", "--evolve.seeds", "2"]
    where = ["--run-dir", str(folder), "--reuse", str(run)]
    printed = wm_jax_command(compilation_cache, "run", str(probe_experiment), *where, *settings)
    assert "4 searches, 4 at a time, use about" in printed
    assert f"memory (round 0): taken over from {run}" in " ".join(printed.split())
    assert contents(run) == before
    told, source = read(folder, "side by side"), read(run, "run")
    for stage, name in (("vision", "reconstruction"), ("vision", "held_out_kl"), ("memory", "nll")):
        assert told.series(stage, name) == source.series(stage, name) != ([], [])
    assert [stage.stage for stage in told.stages if stage.taken_over] == ["collect", "vision", "encode", "memory"]
    assert told.reconstructions == source.reconstructions and len(told.reconstructions) == 1
    scores = json.loads((folder / "evaluation.json").read_text())
    evolutions = scores["evolutions"]
    assert [(each["temperature"], each["seed"]) for each in evolutions] == [(0.7, 0), (0.7, 1), (1.0, 0), (1.0, 1)]
    assert all(each["actual"]["n"] == 16 and each["dream"]["n"] == 64 for each in evolutions)
    # Deployed is the best of those at the dream's own temperature, 1.
    best = max(evolutions[2:], key=lambda each: each["dream"]["mean"])
    assert scores["controller"]["returns"] == best["actual"]["returns"]
    controllers, _ = load_weights(folder / "controller" / "round-0" / "controllers.safetensors")
    assert len(np.unique(format_1.one_array(controllers["weights"]), axis=0)) == 4
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    generations = [line for line in lines if line["stage"] == "controller/round-0" and "best" in line]
    assert [len(line["best"]) for line in generations] == [4] * 10
    films = {path.name for path in (folder / "figures").glob("film*")}
    assert films == {"film.gif", "film_strip.png", "film_coldest.gif", "film_coldest_strip.png"}


def test_what_the_dream_made_is_tuned_in_the_actual_environment(
    run: Path, probe_experiment: Path, compilation_cache: dict[str, str], tmp_path: Path
) -> None:
    """One generation of dreams, then ten in the actual environment: with the V and M of the run."""
    folder = tmp_path / "run"
    evolve = ["--evolve.generations", "1", "--evolve.actual-episodes", "16"]
    command = ["run", str(probe_experiment), "--run-dir", str(folder), "--reuse", str(run), *evolve]
    wm_jax_command(compilation_cache, *command)
    dreamt = json.loads((folder / "evaluation.json").read_text())["controller"]
    tune = {
        "generations": 10,
        "search.population": 16,
        "search.rollouts": 4,
        "search.sigma": 0.1,
        "evaluate-every": 5,
        "actual-episodes": 16,
    }
    settings = [word for name, value in tune.items() for word in (f"--tune.{name}", str(value))]
    with pytest.raises(AssertionError, match=r"tune\.generations was 0, now 10"):
        wm_jax_command(compilation_cache, *command, *settings)
    printed = wm_jax_command(compilation_cache, *command, *settings, "--redo")
    assert "evolve (round 0): finished before" in printed and "tuned in the actual environment" in printed
    tuned = json.loads((folder / "evaluation.json").read_text())["controller"]
    assert tuned["seeds"] == dreamt["seeds"] and tuned["dream"] is None and tuned["selected_by"] == "actual"
    assert tuned["mean"] > dreamt["mean"] + 10
    told = read(folder, "tuned")
    assert told.chosen_by.stage == "tune" and [e["generation"] for e in told.chosen_by.evaluations[0]] == [0, 5, 10]
    assert told.series("tuned", "mean")[0] == list(range(1, 11))
    page = (folder / "report" / "report.md").read_text()
    assert "C, found in the dream, tuned in the actual environment" in page
    pictures = {path.name for path in (folder / "report" / "report-pictures").iterdir()}
    assert {"run1-population.png", "run1-tuned-population.png", "run1-tuned-means.png"} <= pictures
    weights, _ = load_weights(folder / "tuned" / "round-0" / "weights.safetensors")
    assert actors.flat(load(folder).weights).tolist() == format_1.one_array(weights["weights"]).tolist()
