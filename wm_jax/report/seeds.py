"""Several training seeds: the spread between trainings of one kind, as opposed to that between one controller's
episodes."""

from collections import defaultdict
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

from wm_jax.experiment import flatten
from wm_jax.report.facts import RunFacts, Summary
from wm_jax.report.page import Row, Section, Table
from wm_jax.report.scores import CONTROLLER
from wm_jax.report.words import NOTHING, number, scored, spread, value

WITHOUT_EFFECT = ("seed", "name")
"""Settings that may differ between trainings of one kind."""
ABOUT = (
    "Every controller's return, mean ± standard deviation over its episodes, that is, the spread between episodes of one "
    "controller. Over seeds: the mean of these means ± their standard deviation, that is, the spread between "
    "trainings, and thus what to expect of another one."
)


def over_seeds(summaries: Sequence[Summary]) -> Summary:
    """Combine the scores of several seeds: mean of the means, sd of single episodes (root of the mean variance), total
    n, `over`, the standard deviation of the means (None for one seed), and the standard error of their mean, computed
    from `over` if there is one. Seeds without a finite score are left out; if none is left, there are no numbers."""
    summaries = [summary for summary in summaries if summary["mean"] is not None] or list(summaries[:1])
    means = [summary["mean"] for summary in summaries]
    if None in means:
        return {**summaries[0], "over": None}
    over = stdev(means) if len(means) > 1 else None
    return {
        "mean": mean(means),
        "sd": mean(summary["sd"] ** 2 for summary in summaries) ** 0.5,
        "se": summaries[0]["se"] if over is None else over / len(means) ** 0.5,
        "n": sum(summary["n"] for summary in summaries),
        "over": over,
    }


def by_temperature(run: RunFacts) -> dict[float, list[dict[str, Any]]]:
    """A run's searches side by side, grouped by temperature."""
    groups: dict[float, list[dict[str, Any]]] = defaultdict(list)
    for each in sorted(run.evolutions, key=lambda each: each["temperature"]):
        groups[each["temperature"]].append(each)
    return groups


def across(summaries: Sequence[Summary]) -> str:
    """The mean over seeds ± the standard deviation over seeds, as text."""
    together = over_seeds(summaries)
    return f"{spread(together['mean'], together['over'])} over {len(summaries)} seeds"


def sentence(run: RunFacts) -> str:
    """The combined result of a run's searches with different seeds; empty if they were not of one kind."""
    if len(run.evolutions) < 2 or len({each["temperature"] for each in run.evolutions}) > 1:
        return ""
    return f"Its {len(run.evolutions)} searches: {across([each['actual'] for each in run.evolutions])}."


def section(run: RunFacts) -> Section:
    """Each of a run's searches side by side, and all of them combined."""
    dreams = run.place == "dream"
    rows = []
    for each in sorted(run.evolutions, key=lambda each: each["seed"]):
        dream = (scored(each["dream"]),) if dreams else ()
        rows.append(Row((value(each["seed"]), *dream, scored(each["actual"]), number(each["actual"]["se"]))))
    together = [
        across([each[place] for each in run.evolutions]) for place in (*(("dream",) if dreams else ()), "actual")
    ]
    rows.append(Row(("over seeds", *together, NOTHING), "own"))
    columns = ("seed", *(("dream",) if dreams else ()), "actual", "se")
    return Section("Training seeds", (ABOUT,), tables=(Table("", columns, tuple(rows), "r" * len(columns)),))


def of_runs(runs: Sequence[RunFacts]) -> Table:
    """Runs that differ only in their seeds, combined; no rows if there are none."""
    groups: dict[str, list[RunFacts]] = defaultdict(list)
    for run in runs:
        if run.scores:
            groups[_kind(run)].append(run)
    rows = []
    for alike in groups.values():
        if len(alike) > 1:
            actual: list[Summary] = [run.scores[CONTROLLER] for run in alike]
            together = over_seeds(actual)
            labels = ", ".join(run.label for run in alike)
            rows.append(Row((labels, across(actual), number(together["sd"]), f"{together['n']:,}")))
    columns = ("runs that differ only in their seed", "actual, mean ± sd over seeds", "sd over episodes", "total n")
    return Table("Over training seeds", columns, tuple(rows), "lrrr")


def _kind(run: RunFacts) -> str:
    """What runs of one kind have in common."""
    settings: dict[str, Any] = flatten(run.experiment)
    return repr({name: setting for name, setting in settings.items() if name not in WITHOUT_EFFECT})
