"""The sections on the training of C and the world model: curves over generations and steps, and the last reports."""

from typing import Any

from wm_jax.report.charts import Band, Chart, Line, draw
from wm_jax.report.facts import RunFacts, SearchFacts
from wm_jax.report.figures import COLOURS
from wm_jax.report.page import Picture, Row, Section, Table
from wm_jax.report.scores import CONTROLLER
from wm_jax.report.words import PLACES, number, policy, scored, value
from wm_jax.types import HELD_OUT, TRAINED, Curve

ROUNDS = " Grey lines mark the end of a round."
EXPLORED = "This controller only collects data for the next round. Its reward is the explorer's, not the task's."
TUNED = "Starts from the controller found in dreams; the world model does not change."


def controllers(run: RunFacts, name: str) -> tuple[Section, ...]:
    """For each search for a controller: the evaluated candidates, and the search's own curves. `name` prefixes pictures."""
    if not run.searched:
        return ()
    evolution, *tuning = run.searches
    found = (_controller(run, evolution, name, f"C: search in {PLACES[run.place]}", _which(run)),)
    for search in tuning:
        found += (_controller(run, search, f"{name}-tuned", f"C: tuned in {PLACES[search.place]}", (TUNED,)),)
    if run.explorer is not None:
        title = f"Explorer: search in {PLACES[run.explorer.place]}"
        found += (_controller(run, run.explorer, f"{name}-explorer", title, (EXPLORED,)),)
    return found


def _controller(run: RunFacts, search: SearchFacts, name: str, title: str, text: tuple[str, ...]) -> Section:
    if search == run.explorer:
        told = "Measured in the explorer's reward, which the actual environment does not give."
    elif search.place == "dream":
        told = "If the dream's score rises while the actual one falls, C has learned to cheat its dream."
    else:
        told = "Validation beside the score on fresh episodes."
    drawn = [
        (_curve(run, curve, name, search.folder, "generation", search), curve.caption)
        for curve in run.found_by(search).curves
    ]
    charts = ((_means(run, search, name), told), *drawn)
    return Section(title, text, tables=_evaluated(run, search), pictures=_drawn(run, charts))


def _which(run: RunFacts) -> tuple[str, ...]:
    """States whose curves are shown if several searches ran side by side."""
    if run.side_by_side == 1:
        return ()
    shown = []
    for round_number in range(run.experiment.rounds.count):
        told = run.stage("evolve", round_number).summary
        temperature = f"τ {told['temperature']:g}, " if told and run.place == "dream" else ""
        which = f"the deployed one ({temperature}seed {told['seed']})" if told else "the first one so far"
        shown.append(f"round {round_number}: {which}")
    return (f"Of {run.side_by_side} searches side by side the curves show one; {'; '.join(shown)}.",)


def models(run: RunFacts, name: str) -> Section:
    """The world model: training and held-out losses. `name` prefixes the pictures' names."""
    charts = tuple(
        (_curve(run, curve, name, learner, "step"), curve.caption)
        for learner, trained in run.models.world.learners.items()
        for curve in trained.curves
    )
    return Section("World model: training", tables=_last_reports(run), pictures=_drawn(run, charts))


def _drawn(run: RunFacts, charts: tuple[tuple[Chart, str], ...]) -> tuple[Picture, ...]:
    rounds = ROUNDS if run.experiment.rounds.count > 1 else ""
    return tuple(draw(chart, caption + rounds) for chart, caption in charts if not chart.empty)


def _curve(run: RunFacts, curve: Curve, name: str, folder: str, x: str, search: SearchFacts | None = None) -> Chart:
    """Metrics of a stage over its steps, each with its held-out values in the same colour. A chart with a band also
    shows the evaluated candidates, which have the same unit."""
    lines, bands = [], ()
    for index, metric in enumerate(curve.metrics):
        colour = COLOURS["population"] if curve.band else f"C{index}"
        for key, style, label in ((metric, "-", metric), (f"{HELD_OUT}{metric}", "o", f"{metric}, held out")):
            steps, values = run.series(folder, key)
            if steps:
                lines.append(Line(label, steps, values, style, colour))
    if curve.band is not None and lines and search is not None:
        low, high = (run.series(folder, metric)[1] for metric in curve.band)
        bands = (Band(" to ".join(curve.band), lines[0].x, low, high, COLOURS["population"]),)
        lines += evaluated_lines(run, search, (search.place,))
    title = f"{curve.title} in {PLACES[search.place]}" if curve.band and search else curve.title
    return Chart(f"{name}-{curve.name}", title, x, "return" if curve.band else "", tuple(lines), bands,
                 boundaries=run.boundaries(folder), logarithmic=curve.logarithmic)  # fmt: skip


def _means(run: RunFacts, search: SearchFacts, name: str) -> Chart:
    """The evaluated candidates in the dream and in the actual environment, with the final scores."""
    lines = evaluated_lines(run, search, ("dream", "actual"))
    levels: tuple[tuple[str, float], ...] = ()
    if run.scores and lines and search == run.chosen_by:
        score = run.scores[CONTROLLER]
        generation = run.starts(search.folder)[-1] + score["generation"]
        label = f"deployed, fresh episodes (n = {score['n']})"
        lines.append(Line(label, [generation], [score["mean"]], "*", "black", [score["se"]]))
        levels = tuple((f"{policy(n)} (n = {s['n']})", s["mean"]) for n, s in run.scores.items() if n != CONTROLLER)
    title = "Evaluated candidates" + (
        ", dream and actual" if search.place == "dream" and search != run.explorer else ""
    )
    return Chart(f"{name}-means", title, "generation", "return", tuple(lines), levels=levels,
                 boundaries=run.boundaries(search.folder))  # fmt: skip


def evaluated_lines(run: RunFacts, search: SearchFacts, places: tuple[str, ...]) -> list[Line]:
    """The evaluated candidates over the generations of all rounds: with standard errors if the evolution is finished,
    otherwise as logged."""
    names = {"dream": f"candidate of the search, dream {run.experiment.dream.words}",
             "actual": f"candidate of the search, validation in {search.config.validated_in}"}  # fmt: skip
    found = []
    for place in places:
        points = [
            (start + evaluation["generation"], evaluation[place])
            for start, round_number in zip(run.starts(search.folder), range(run.experiment.rounds.count), strict=True)
            for evaluation in search.evaluations.get(round_number, [])
            if evaluation[place] is not None and evaluation[place]["mean"] is not None
        ]
        if points:
            means, errors = [score["mean"] for _, score in points], [score["se"] for _, score in points]
            label = f"{names[place]} (n = {points[0][1]['n']})"
            found.append(Line(label, [step for step, _ in points], means, "o-", COLOURS[place], errors))
        elif (logged := run.series(search.folder, f"mean_{place}"))[0]:
            found.append(Line(names[place], *logged, "o-", COLOURS[place]))
    return found


def _evaluated(run: RunFacts, search: SearchFacts) -> tuple[Table, ...]:
    """A table of the evaluated candidates for each round."""
    tables = []
    for round_number, evaluations in search.evaluations.items():
        deployed = run.stage(search.stage, round_number).summary.get("generation")
        rows = [
            Row(
                (f"{e['generation']:,}" + (", deployed" if e["generation"] == deployed else ""),
                 scored(e["dream"]), scored(e["actual"])),
                "own" if e["generation"] == deployed else "plain",
            )
            for e in evaluations
        ]  # fmt: skip
        columns = ("generation", "dream", "actual, validation seeds")
        tables.append(Table(f"Evaluated candidates, round {round_number}", columns, tuple(rows), "lrr", folded=True))
    return tuple(tables)


def _last_reports(run: RunFacts) -> tuple[Table, ...]:
    """The last report on each learner; one column for each round."""
    rounds = range(run.experiment.rounds.count)
    groups = [
        (f"{learner.title}, {what}", name, prefix)
        for name, learner in run.models.world.learners.items()
        for prefix, what in (
            (HELD_OUT, "held-out episodes"),
            (TRAINED, "as many training episodes of each round"),
        )
    ]
    rows = []
    for title, stage, prefix in groups:
        reports: list[dict[str, Any]] = [run.stage(stage, r).summary for r in rounds]
        names = dict.fromkeys(name for report in reports for name in report if name.startswith(prefix))
        if names:
            rows.append(Row((title,), "group"))
        for name in names:
            text = name.removeprefix(prefix).replace("_", " ")
            rows.append(Row((text, *(value(report.get(name)) for report in reports))))
    columns = ("measure", *(f"round {r}" for r in rounds))
    table = Table("Last reports", columns, tuple(rows), "l" + "r" * len(rounds), folded=True)
    return (table,) if rows else ()


def last(run: RunFacts, folder: str, metric: str) -> str:
    """The last logged value of a metric."""
    values = run.series(folder, metric)[1]
    return number(values[-1], 2) if values else number(None)
