"""A report says what the run's files say, needs nothing but itself, and says what its numbers lack."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from report_run import (
    COMMAND,
    CONTROLLER,
    DREAMS,
    EXPERIMENT,
    MADE_WITH,
    RANDOM,
    SOUGHT,
    VALIDATION,
    Reader,
    make_run,
    write_png,
)

from wm_jax import cli
from wm_jax.errors import UserError
from wm_jax.explore.curiosity import CuriosityConfig
from wm_jax.memory import MemoryConfig
from wm_jax.pipeline.reporting import read, report
from wm_jax.report import learning, measured, published
from wm_jax.report.page import PICTURES
from wm_jax.report.seeds import over_seeds
from wm_jax.report.words import scored
from wm_jax.rollouts.evaluate import score, summary
from wm_jax.worlds.vision_memory import VisionMemoryConfig


def told(returns: list[float]) -> str:
    return f"{np.mean(returns):,.1f} ± {np.std(returns, ddof=1):,.1f}"


def standard_error(returns: list[float]) -> str:
    return f"{np.std(returns, ddof=1) / np.sqrt(len(returns)):,.1f}"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("report") / "finished")


@pytest.fixture(scope="module")
def page(finished: Path) -> Reader:
    html, *_ = report([finished], None)
    return Reader(html.read_text())


def test_scores_stand_beside_the_dream_and_what_others_published(page: Reader) -> None:
    dream = f"{told(DREAMS[4])} (n = 3)"
    assert page.rows("C, found in the dream") == [
        ["C, found in the dream", told(CONTROLLER), standard_error(CONTROLLER), "4", dream, "this run, fresh seeds"]
    ]
    assert page.rows("random policy")[0][1:4] == [told(RANDOM), standard_error(RANDOM), "4"]
    assert page.rows("paper, τ 1.15") == [
        ["paper, τ 1.15", "1,092 ± 556", "55.6", "100", "918 ± 546", "Ha & Schmidhuber 2018, arXiv:1803.10122"]
    ]
    assert page.rows("sweep, 100 tics each")[0][1:4] == ["754 ± 452", "14.3", "1,000"]
    assert page.rows("best of the leaderboard")[0][2:4] == ["–", "–"], "no n, hence no standard error"


def test_the_result_is_read_against_the_best_untrained_policy(page: Reader) -> None:
    best = published.best_blind("take_cover")
    assert best is not None and (best.mean, best.n) == (754.5, 1000)
    difference = np.mean(CONTROLLER) - 754.5
    errors = difference / np.hypot(np.std(CONTROLLER, ddof=1) / 2, 452.5 / np.sqrt(1000))
    assert f"C is {difference:.1f} above it, {errors:.1f} standard errors" in page.text


def test_an_earlier_c_is_no_rival_and_the_upper_bound_stands_beside(tmp_path: Path) -> None:
    run = make_run(tmp_path / "rounds", task="swing_up")
    path = run / "evaluation" / "round-1" / "evaluation.json"
    scores = json.loads(path.read_text())
    path.write_text(json.dumps({**scores, "round-0": scores["controller"]}))
    shown = Reader(report([run], None)[0].read_text())
    assert shown.rows("C of round 0")[0][1] == told(CONTROLLER)
    assert "The best untrained policy (random, this run)" in shown.text
    assert shown.rows("CMA-ES from the physical state")[0][1:4] == ["920 ± 12", "1.2", "100"]


def test_scores_on_another_backend_are_told_as_such(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    path = run / "evaluation" / "round-1" / "evaluation.json"
    scores = json.loads(path.read_text())
    path.write_text(json.dumps({name: {**score, "backend": "other"} for name, score in scores.items()}))
    shown = Reader(report([run], None)[0].read_text())
    assert shown.rows("random policy")[0][-1] == "this run, fresh seeds, other"
    assert "played on the backend other" in shown.text


def test_evaluated_means_name_the_deployed_one(page: Reader) -> None:
    validation = f"{told(VALIDATION)} (n = 2)"
    assert page.rows("2") == [["2", f"{told(DREAMS[2])} (n = 3)", validation]] * 2, "one row a round"
    assert page.rows("4, deployed") == [["4, deployed", f"{told(DREAMS[4])} (n = 3)", validation]] * 2


def test_the_explorers_search_stands_beside_cs(tmp_path: Path) -> None:
    world = VisionMemoryConfig(memory=MemoryConfig(predict_surprise=True))
    run = make_run(tmp_path / "curious", finished=12, world=world, explorer=CuriosityConfig(generations=4))
    shown = Reader(report([run], None)[0].read_text())
    assert "Explorer: search in the dream" in shown.text
    assert shown.rows("3, deployed") == [["3, deployed", f"{told(SOUGHT[3])} (n = 2)", "–"]], (
        "the last round explores not"
    )
    assert [
        tag
        for tag, attributes in shown.tags
        if attributes.get("alt", "").startswith("Measured in the explorer's reward")
    ]


def test_how_it_was_made(page: Reader) -> None:
    assert [row[3:5] for row in page.rows("memory")] == [["1 h 02 min", "3 cores of Abacus"]] * 2
    assert [row[3] for row in page.rows("vision")] == ["1 min 15 s"] * 2
    assert page.rows("jax") == [["jax", "0.10.99"]]
    assert page.rows("search.population") == [["search.population", "8"]]
    assert page.rows("recorded") == [["recorded", "14 episodes, 8,642 frames"]]
    weights = {"vision": "15", "memory": "21", "controller": "11"}
    assert {name: page.rows(f"weights of {name}")[0][1] for name in weights} == weights
    assert page.rows("features of the world model") == [["features of the world model", "c 256, h 256, z 32"]]
    assert page.rows("C reads") == [["C reads", "z h, linear"]]
    generation = "8 candidates × 4 rollouts, in dreams of at most 2,100 steps"
    assert page.rows("a generation") == [["a generation", generation]]
    assert page.rows("reconstruction") == [["reconstruction", "12.34", "12.34"]]
    assert page.rows("nll") == [["nll", "0.987", "0.987"]]
    assert COMMAND in page.text


def test_what_numbers_lack_is_said(page: Reader) -> None:
    assert f"chosen by its validation score, {told(VALIDATION)} (n = 2)" in page.text
    assert "that score is optimistic" in page.text
    assert "n = 4 is small" in page.text
    assert "unfinished" not in page.text


def test_the_page_needs_nothing_but_itself(page: Reader) -> None:
    assert not {"link", "script", "iframe", "object", "base"} & {tag for tag, _ in page.tags}
    sources = [attributes["src"] for _, attributes in page.tags if "src" in attributes]
    names = ("returns", "population", "means", "sigma", "vision", "memory", "film-strip", "reconstructions-0")
    assert len(sources) == len(names) + 1, "two rounds of reconstructions"
    assert all(source is not None and source.startswith("data:image/png;base64,iVBOR") for source in sources)


def test_the_style_asks_for_nothing(finished: Path) -> None:
    style = (finished / "report" / "report.html").read_text().split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style


def test_markdown_says_the_same_with_its_pictures_beside_it(page: Reader, finished: Path) -> None:
    text = (finished / "report" / "report.md").read_text()
    assert f"| **C, found in the dream** | {told(CONTROLLER)} | {standard_error(CONTROLLER)} | 4 |" in text
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert len(pictures) == len(set(pictures)) == 9
    assert all((finished / "report" / picture).read_bytes().startswith(b"\x89PNG") for picture in pictures)
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == len(page.tables)
    for table, shown in zip(tables, page.tables, strict=True):
        assert re.fullmatch(r"\|(---\||--:\|)+", table[1])
        assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {len(shown[0]) + 1}
        assert len(table) == len(shown) + 1


def test_hostile_names_are_shown_and_not_obeyed(tmp_path: Path) -> None:
    name = '<script>alert("1")</script> $\\frac{ | `x` _y_ ![](http://x)'
    html, text, _ = report([make_run(tmp_path / "_$x^{", name=name)], None)
    page = Reader(html.read_text())
    assert name in page.text
    assert "script" not in {tag for tag, _ in page.tags}
    assert len([tag for tag, _ in page.tags if tag == "img"]) == 9
    markdown = text.read_text()
    assert "<script" not in re.sub(r"\\<", "", markdown)
    assert "![](http" not in markdown


def test_an_unfinished_run_is_told_as_far_as_it_went(tmp_path: Path) -> None:
    """The first round is done; the second has begun with its V."""
    run = make_run(tmp_path / "half", finished=6)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "vision/round-1", "step": 30, "reconstr\nnull\n')
    page = Reader(report([run], None)[0].read_text())
    assert "half is unfinished: it has no score yet" in page.text
    assert "stages without a result: vision (round 1), encode (round 1)" in page.text
    assert "2 damaged line(s) of metrics.jsonl were skipped" in page.text
    assert not page.rows("C, found in the dream")
    assert page.rows("paper, τ 1.15"), "what it will be read against"
    assert [row[2] for row in page.rows("vision")] == ["finished", "begun"]
    assert page.rows("4, deployed") == [["4, deployed", f"{told(DREAMS[4])} (n = 3)", f"{told(VALIDATION)} (n = 2)"]]


def test_several_runs_are_compared(finished: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", seed=7, finished=9)
    page = Reader(report([finished, other], tmp_path / "out")[0].read_text())
    compared = [
        "take_cover",
        told(CONTROLLER),
        standard_error(CONTROLLER),
        "4",
        f"{told(DREAMS[4])} (n = 3)",
        "4",
        "actual",
    ]
    assert page.rows("finished")[0] == ["finished", *compared]
    assert page.rows("other")[0] == ["other", "take_cover", *["–"] * 6]
    differing = next(table for table in page.tables if table[0] == ["setting", "finished", "other"])
    assert differing[1:] == [["seed", "0", "7"]]
    assert {"#part-1", "#part-2", "#part-3"} == {a["href"] for tag, a in page.tags if tag == "a"}
    overlaid = [a["alt"] for tag, a in page.tags if tag == "img" and "over all rounds of each run" in (a["alt"] or "")]
    assert len(overlaid) == 3
    assert (tmp_path / "out" / PICTURES / "comparison-returns.png").is_file()


def test_temperatures_stand_beside_the_papers(tmp_path: Path) -> None:
    """Two seeds at τ 1.15, one at 0.1; the paper's other temperatures are listed too."""
    runs = [(0.1, 0, 2000.0, 200.0), (1.15, 0, 900.0, 1000.0), (1.15, 1, 1000.0, 1200.0)]
    evolutions = [
        {"temperature": t, "seed": s, "dream": summary([d, d + 2]),
         "actual": score([a - 1, a, a + 1], range(3), **MADE_WITH)}
        for t, s, d, a in runs
    ]  # fmt: skip
    settings = replace(EXPERIMENT.evolve, temperatures=(0.1, 1.15), seeds=2)
    run = make_run(tmp_path / "many", evolutions=evolutions, evolve=settings)
    write_png(run / "figures" / "film_coldest_strip.png")
    page = Reader(report([run], None)[0].read_text())
    assert page.rows("1.15")[0] == [
        "1.15", "2", "951.0 ± 1.4 (n = 4)", "70.7", "50.0", "918 ± 546", "1,100.0 ± 1.0 (n = 6)", "141.4", "100.0",
        "1,092 ± 556",
    ]  # fmt: skip
    assert page.rows("0.10")[0][:6] == ["0.10", "1", "2,001.0 ± 1.4 (n = 2)", "–", "1.0", "2,086 ± 140"]
    assert page.rows("0.50")[0] == ["0.50", "–", "–", "–", "–", "2,060 ± 277", "–", "–", "–", "196 ± 50"]
    assert len(page.rows("1.15")) == 3, "and each evolution for itself"
    assert "Of 4 searches side by side the curves show one; round 0: the deployed one (τ 1.15, seed 0)" in page.text
    assert "the lowest temperature" in page.text
    assert [row[0] for row in page.rows("2") + page.rows("4, deployed")] == ["2", "2", "4, deployed", "4, deployed"]
    assert read(run, "many").series("controller", "mean") == ([1, 2, 3, 4, 5, 6, 7, 8], [20, 40, 60, 80] * 2)


def test_evolutions_in_the_actual_environment_have_seeds_and_no_temperature(tmp_path: Path) -> None:
    evolutions = [
        {"temperature": 1.0, "seed": seed, "dream": None, "actual": score([a - 1, a, a + 1], range(3), **MADE_WITH)}
        for seed, a in enumerate((800.0, 850.0))
    ]
    settings = replace(EXPERIMENT.evolve, fitness="actual", select="actual", seeds=2, max_steps=500)
    page = Reader(report([make_run(tmp_path / "seeds", evolutions=evolutions, evolve=settings)], None)[0].read_text())
    assert ["1", "850.0 ± 1.0 (n = 3)", "0.6"] in page.rows("1")
    assert page.rows("over seeds") == [["over seeds", "825.0 ± 35.4 over 2 seeds", "–"]]
    assert "Its 2 searches: 825.0 ± 35.4 over 2 seeds." in page.text
    assert "round 0: the deployed one (seed 0)" in page.text and not page.rows("1.00")
    assert "8 candidates × 4 rollouts, in actual episodes of at most 500 steps" in page.text


def test_the_spread_of_episodes_is_kept_apart_from_that_of_seeds() -> None:
    first, second = summary([10.0, 30.0]), summary([50.0, 50.0])
    together = over_seeds([first, second])
    assert (together["mean"], together["n"]) == (35.0, 4)
    assert together["se"] == pytest.approx(15.0), "half the distance of two means"
    assert together["sd"] == pytest.approx(10.0), "root of (200 + 0) / 2"
    assert together["over"] == pytest.approx(450**0.5), "of 20 and 50"
    assert over_seeds([first]) == {**first, "over": None}
    broken = summary([10.0, float("-inf")])
    assert over_seeds([broken, first]) == {**first, "over": None}
    assert over_seeds([broken, broken]) == {**broken, "over": None}


def test_runs_that_differ_in_their_seed_alone_are_told_together(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"run{seed}", seed=seed) for seed in range(3)]
    other = make_run(tmp_path / "other", seed=3, held_out=0.2)
    page = Reader(report([*runs, other], tmp_path / "out")[0].read_text())
    (together,) = page.rows("run0, run1, run2")
    assert together == ["run0, run1, run2", "1,062.8 ± 0.0 over 3 seeds", "350.0", "12"]


def test_an_evaluated_mean_without_a_finite_score_is_told_as_such_and_not_drawn(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run") / "controller" / "round-0" / "evaluations.json"
    evaluations = json.loads(path.read_text())
    evaluations[0] |= {"generation": 0, "dream": summary([700.0, float("-inf"), 800.0])}
    path.write_text(json.dumps(evaluations))
    run = read(tmp_path / "run", "run")
    drawn = learning.evaluated_lines(run, run.searches[0], ("dream", "actual"))
    assert [list(line.x) for line in drawn] == [[4, 6, 8], [0, 4, 6, 8]]
    page = Reader(report([tmp_path / "run"], None)[0].read_text())
    assert ["0", "– (n = 3)", scored(summary(VALIDATION))] in page.rows("0")


def test_published_numbers_are_the_papers() -> None:
    assert {t: (*(s.dream or ()), s.mean, s.sd) for t, s in published.by_temperature("take_cover").items()} == {
        0.1: (2086, 140, 193, 58), 0.5: (2060, 277, 196, 50), 1.0: (1145, 690, 868, 511),
        1.15: (918, 546, 1092, 556), 1.3: (732, 269, 753, 139),
    }  # fmt: skip
    assert published.best_blind("car_racing") is None


def test_wrong_commands_are_told_in_a_sentence(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(*arguments: str | Path) -> str:
        monkeypatch.setattr("sys.argv", ["wm-jax", "report", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code == 1
        return capsys.readouterr().err

    begun = make_run(tmp_path / "begun", finished=0)
    (tmp_path / "file").write_text("")
    assert "at least one run's folder" in command()
    assert f"{tmp_path} is not a run folder" in command(tmp_path)
    assert "needs its own folder: give it with --out DIR" in command(finished, finished)
    assert "found none (begun: collect (round 0))" in command(begun)
    assert "is a file; give a folder" in command(finished, "--out", tmp_path / "file")


def test_the_command_prints_where_the_page_is(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["wm-jax", "report", str(finished), "--out", str(tmp_path / "page")])
    cli.main()
    printed = capsys.readouterr().out.split()
    assert printed == [str(tmp_path / "page" / name) for name in ("report.html", "report.md", "scores.json")]
    assert all(Path(path).is_file() for path in printed)
    assert json.loads(Path(printed[2]).read_text()) == measured.entries([read(finished, finished.name)])


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("evaluation/round-1/evaluation.json", '{"controller": {"mean": 3}}'),
        ("evaluation/round-1/evaluation.json", "[]"),
        ("controller/round-0/evaluations.json", '[{"generation": 2}]'),
        ("vision/round-0/stage.json", "{}"),
        ("vision/round-0/stage.json", '{"settings": {}, "finished": true, "summary": {"seconds": "3"}}'),
        ("vision/round-0/stage.json", '{"settings": {}, "finished": true, "summary": {"seconds": NaN}}'),
        ("rollouts/round-0/stage.json", '{"settings": {}, "finished": true, "summary": {"episodes": 3}}'),
        ("config.json", "{"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, file: str, text: str) -> None:
    run = make_run(tmp_path / "run")
    (run / file).write_text(text)
    with pytest.raises(UserError, match=rf"{file} is damaged"):
        report([run], None)


def test_metrics_that_are_no_text_are_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b"\xff\xfe\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl is damaged"):
        report([run], None)


def test_a_report_says_what_installs_the_packages_that_draw(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r'matplotlib.figure is needed here .*pip install "wm-jax\[report\]"'):
        report([finished], None)
