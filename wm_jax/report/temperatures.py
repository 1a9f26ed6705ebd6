"""The section on searches at several temperatures side by side: the effect of the dream's temperature, beside the
paper's table."""

from typing import Any

from wm_jax.report import published
from wm_jax.report.charts import Chart, Line, draw
from wm_jax.report.facts import RunFacts
from wm_jax.report.figures import COLOURS
from wm_jax.report.page import Row, Section, Table
from wm_jax.report.seeds import by_temperature, over_seeds
from wm_jax.report.words import NOTHING, number, scored, spread, value

PLACES = ("dream", "actual")


def section(run: RunFacts, name: str) -> Section:
    """The table of temperatures, every search, and the chart. `name` prefixes the picture's name."""
    groups, paper = by_temperature(run), published.by_temperature(run.experiment.task)
    text = (
        "Mean over seeds of each controller's mean return ± the standard deviation of single episodes; over seeds: the "
        "standard deviation of these means; se: standard error of their mean, from the seeds' spread (the episodes' spread "
        "if there is one seed). All actual scores are on fresh seeds; the paper has one search per temperature."
    )
    caption = "A controller that scores far more in its dream than in the actual environment cheats the dream."
    picture = draw(_chart(groups, paper, name), caption)
    return Section("Temperatures", (text,), tables=(_table(groups, paper), _each(run)), pictures=(picture,))


def _table(groups: dict[Any, list[dict[str, Any]]], paper: dict[float, published.Score]) -> Table:
    rows = []
    for temperature in sorted({*groups, *paper}):
        own, theirs = groups.get(temperature, []), paper.get(temperature)
        cells = [f"{temperature:.2f}", str(len(own)) if own else NOTHING]
        for place in PLACES:
            score = over_seeds([evolution[place] for evolution in own]) if own else None
            cells += [scored(score), *(number(score[name] if score else None) for name in ("over", "se"))]
            if theirs is None:
                cells.append(NOTHING)
            elif place == "dream":
                cells.append(spread(*theirs.dream, 0) if theirs.dream else NOTHING)
            else:
                cells.append(spread(theirs.mean, theirs.sd, 0))
        rows.append(Row(tuple(cells)))
    each = ("over seeds", "se")
    columns = ("τ", "seeds", "dream", *each, "dream, paper", "actual", *each, "actual, paper")
    return Table("By temperature", columns, tuple(rows), "r" * len(columns))


def _each(run: RunFacts) -> Table:
    ordered = sorted(run.evolutions, key=lambda evolution: (evolution["temperature"], evolution["seed"]))
    rows = []
    for e in ordered:
        scores = scored(e["dream"]), scored(e["actual"]), number(e["actual"]["se"])
        rows.append(Row((f"{e['temperature']:.2f}", value(e["seed"]), *scores)))
    return Table("Every search", ("τ", "seed", "dream", "actual", "se, actual"), tuple(rows), "rrrrr", folded=True)


def _chart(groups: dict[Any, list[dict[str, Any]]], paper: dict[float, published.Score], name: str) -> Chart:
    lines = []
    for place in PLACES:
        own = {t: over_seeds([evolution[place] for evolution in group]) for t, group in groups.items()}
        own = {t: score for t, score in own.items() if score["mean"] is not None}
        means, errors = [score["mean"] for score in own.values()], [score["se"] for score in own.values()]
        lines.append(Line(f"{place}, this run", list(own), means, "o-", COLOURS[place], errors))
    cheated = {t: score.dream[0] for t, score in paper.items() if score.dream}
    actual = {t: score.mean for t, score in paper.items()}
    for place, points in (("dream", cheated), ("actual", actual)):
        if points:
            lines.append(Line(f"{place}, paper", list(points), list(points.values()), "x:", COLOURS[place]))
    return Chart(f"{name}-temperatures", "Score by the dream's temperature", "τ", "return", tuple(lines))
