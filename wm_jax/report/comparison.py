"""The sections that compare several runs: scores, differing settings, overlaid curves."""

from collections.abc import Sequence
from pathlib import Path

from wm_jax.experiment import flatten
from wm_jax.report.charts import Chart, Line, draw
from wm_jax.report.facts import RunFacts
from wm_jax.report.learning import last
from wm_jax.report.page import Row, Section, Table
from wm_jax.report.scores import CONTROLLER, histogram
from wm_jax.report.seeds import of_runs
from wm_jax.report.words import NOTHING, duration, number, scored, spread, value
from wm_jax.types import HELD_OUT

ABOUT = (
    "C's return in an episode, mean ± standard deviation over n episodes; in the actual environment on fresh seeds. "
    "Each run's own part below has its baselines and the published scores."
)
CURVES = (
    ("controller", "mean", "-", "C: mean return of the population", "generation", "return"),
    ("controller", "mean_dream", "o-", "C: the evaluated candidates in the dream", "generation", "return"),
    ("controller", "mean_actual", "o-", "C: the evaluated candidates, validation seeds", "generation", "return"),
)
"""Stage, metric, style, title and axis names of each overlaid chart; one chart for each learner is added."""


def sections(runs: Sequence[RunFacts]) -> tuple[Section, ...]:
    """Scores with a histogram, differing settings, curves."""
    results = {run.label: run.scores[CONTROLLER] for run in runs if run.scores}
    pictures = (histogram("comparison-returns", results),) if results else ()
    charts = [chart for chart in (_overlaid(runs, *curve) for curve in (*_learned(runs), *CURVES)) if not chart.empty]
    drawn = tuple(draw(chart, f"{chart.title}, over all rounds of each run.") for chart in charts)
    settings, together = _settings(runs), of_runs(runs)
    alike = (together,) if together.rows else ()
    found = (
        Section("Scores", (ABOUT,), _notes(runs), tables=(_scores(runs), *alike, _costs(runs)), pictures=pictures),
        Section("Settings that differ", tables=(settings,) if settings.rows else ()),
        Section("Curves", pictures=drawn),
    )
    return tuple(section for section in found if section.tables or section.pictures)


def _learned(runs: Sequence[RunFacts]) -> list[tuple[str, str, str, str, str, str]]:
    """The held-out value of each learner's watched metric, in the form of `CURVES`."""
    learners = {name: learner for run in runs for name, learner in run.models.world.learners.items()}
    return [
        (name, f"{HELD_OUT}{each.watch}", "o-", f"{each.title}: held-out {each.watch}", "step", each.watch)
        for name, each in learners.items()
    ]


def _notes(runs: Sequence[RunFacts]) -> tuple[str, ...]:
    found = []
    if len({run.experiment.task for run in runs}) > 1:
        found.append("The runs have different tasks: their scores are not comparable.")
    seeds = {tuple(run.scores[CONTROLLER]["seeds"]) for run in runs if run.scores}
    if len(seeds) > 1:
        found.append("The runs were scored on different fresh episodes.")
    unfinished = [run.label for run in runs if not run.finished]
    if unfinished:
        found.append(f"Unfinished: {', '.join(unfinished)}.")
    selected = [run.label for run in runs if run.scores and run.scores[CONTROLLER]["selected_by"] == "actual"]
    if selected:
        found.append(f"C was chosen by validation episodes of the actual environment in: {', '.join(selected)}.")
    return tuple(found)


def _scores(runs: Sequence[RunFacts]) -> Table:
    columns = ("run", "task", "actual, mean ± sd", "se", "n", "dream, mean ± sd", "generation", "chosen by")
    return Table("", columns, tuple(map(_score, runs)), "llrrrrrl")


def _score(run: RunFacts) -> Row:
    score = run.scores.get(CONTROLLER)
    result = (NOTHING,) * 6 if score is None else (
        spread(score["mean"], score["sd"]), number(score["se"]), f"{score['n']:,}", scored(score["dream"]),
        f"{score['generation']:,}", score["selected_by"],
    )  # fmt: skip
    return Row((run.label, Path(run.experiment.task).stem, *result))


def _costs(runs: Sequence[RunFacts]) -> Table:
    watched = [(name, metric, title) for name, metric, _, title, *_ in _learned(runs)]
    rows = tuple(
        Row((run.label, *(last(run, name, metric) for name, metric, _ in watched), duration(run.seconds), run.devices))
        for run in runs
    )
    columns = ("run", *(title for _, _, title in watched), "time of finished stages", "device")
    return Table("Models and time", columns, rows, "l" + "r" * (len(watched) + 1) + "l")


def _settings(runs: Sequence[RunFacts]) -> Table:
    """The settings that are not the same in all runs."""
    settings = [flatten(run.experiment) for run in runs]
    names = dict.fromkeys(name for each in settings for name in each)
    differing = [name for name in names if any(other.get(name) != settings[0].get(name) for other in settings)]
    rows = tuple(Row((name, *(value(values.get(name)) for values in settings))) for name in differing)
    return Table("", ("setting", *(run.label for run in runs)), rows, "l" * (len(runs) + 1))


def _overlaid(runs: Sequence[RunFacts], folder: str, metric: str, style: str, title: str, x: str, y: str) -> Chart:
    lines = []
    for index, run in enumerate(runs):
        steps, values = run.series(folder, metric)
        if steps:
            lines.append(Line(run.label, steps, values, style, f"C{index % 10}"))
    return Chart(f"comparison-{folder}-{metric.replace('_', '-')}", title, x, y, tuple(lines))
