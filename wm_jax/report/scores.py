"""The first section of a run's report: its scores, beside its dream's, blind policies' and published ones."""

from typing import Any

import numpy as np

from wm_jax.report import published
from wm_jax.report.facts import RunFacts, Summary
from wm_jax.report.figures import figure, label, png
from wm_jax.report.page import Picture, Row, Section, Table
from wm_jax.report.words import EARLIER, NOTHING, controller, measured, number, policy, scored, spread

CONTROLLER = "controller"
"""C's name among the scored policies."""
USUAL_EPISODES = 100
"""A score with fewer episodes is reported as rough; published scores have about this many."""


def headline(run: RunFacts) -> str:
    """A run's result in one or two sentences."""
    if not run.scores:
        done = ", ".join(str(stage) for stage in run.stages if stage.finished)
        return f"{run.label} is unfinished: it has no score yet. Finished stages: {done}."
    score = run.scores[CONTROLLER]
    told = (
        f"{run.label}: {spread(score['mean'], score['sd'])} in the actual environment (standard error "
        f"{number(score['se'])}, n = {score['n']:,} fresh episodes)"
    ) + (f", {scored(score['dream'])} in its dream." if score["dream"] else ".")
    return f"{told} {_against_blind(run)}".strip()


def section(run: RunFacts, name: str) -> Section:
    """The table of scores with its notes, and the histogram. `name` prefixes the pictures' names."""
    pictures = (histogram(f"{name}-returns", run.scores),) if run.scores else ()
    text = tuple(filter(None, (_about(run), _measured(run))))
    return Section("Scores", text=text, notes=notes(run), tables=(_table(run),), pictures=pictures)


def histogram(title: str, scores: dict[str, Summary]) -> Picture:
    """A histogram of the scored policies' returns."""
    drawing = figure(7, 4)
    axis = drawing.subplots()
    everything = [value for score in scores.values() for value in score["returns"]]
    bins = np.linspace(min(everything), max(everything) + 1e-6, 25)
    for name, score in scores.items():
        text = f"{name}: {score['mean']:.1f} ± {score['sd']:.1f} (n = {score['n']})"
        axis.hist(score["returns"], bins=bins, alpha=0.6, label=label(text))
    axis.set(xlabel="return in the actual environment", ylabel="episodes", title="Returns on fresh episodes")
    axis.legend()
    return Picture(f"{title}.png", "Returns of every fresh episode in the actual environment.", png(drawing))


def notes(run: RunFacts) -> tuple[str, ...]:
    """Notes that a reader needs to interpret a run's numbers."""
    found = []
    if not run.finished:
        missing = ", ".join(str(stage) for stage in run.stages if not stage.finished)
        found.append(f"This run is unfinished; stages without a result: {missing}.")
    if run.damaged_lines:
        found.append(f"{run.damaged_lines} damaged line(s) of metrics.jsonl were skipped: the curves lack some points.")
    if run.scores:
        found += notes_on_selection(run)
        if backend := run.scores[CONTROLLER].get("backend"):
            found.append(
                f"The fresh episodes were played on the backend {backend}, not on the task's reference: compare these "
                "scores only with scores on that backend."
            )
        few = sorted({score["n"] for score in run.scores.values() if score["n"] < USUAL_EPISODES})
        if few:
            counted = " and ".join(map(str, few))
            found.append(
                f"n = {counted} is small: published scores have about {USUAL_EPISODES} episodes; note the standard errors."
            )
    if published.PUBLISHED.get(run.experiment.task):
        found.append(
            f"{NOTHING} under n or se (standard error): the source does not give the number of episodes or their spread."
        )
    return tuple(found)


def notes_on_selection(run: RunFacts) -> list[str]:
    """Notes on how a scored run's C was chosen."""
    score = run.scores[CONTROLLER]
    found = []
    if not run.searched:
        return found
    if score["selected_by"] == "actual":
        place = run.chosen_by.config.validated_in
        found.append(
            f"C was chosen by its validation score, {scored(score['validation'])}, in {place}: that score is "
            "optimistic, not a result. Its seeds are used for nothing else; the table's scores use fresh seeds."
        )
    else:
        found.append(
            "C was chosen by its dream's score among the evaluated candidates: the dream's score is the best of several, "
            "and optimistic. The actual environment was not used to choose; the table's scores are from fresh episodes."
        )
    if score["validation"] is not None and score["selected_by"] != "actual":
        found.append("Scores on validation seeds, in the curves, are shown for comparison only.")
    return found


def _about(run: RunFacts) -> str:
    told = "Return in an episode, mean ± standard deviation over n episodes; se is the standard error of the mean."
    if run.place == "dream":
        told += f" A dream is {run.experiment.dream.words} (τ {_temperature(run):g})."
    if not run.scores:
        return told
    score = run.scores[CONTROLLER]
    return (
        f"{told} Fresh episodes have the environment seeds {score['seeds'][0]} to {score['seeds'][-1]}, the same for every "
        f"policy of this run; C is {which_candidate(run)}. Scored on {score['device']}."
    )


def which_candidate(run: RunFacts) -> str:
    """A description of which candidate of its search a scored run's C is."""
    if not run.searched:
        return "without weights, so there was no search"
    tuning, generation = " of its tuning" if run.chosen_by.stage == "tune" else "", run.scores[CONTROLLER]["generation"]
    return f"the candidate of generation {generation}{tuning}" if generation else "the controller before tuning"


def _temperature(run: RunFacts) -> float:
    """τ of the dream that the deployed controller was evolved in."""
    last = run.stage("evolve", run.experiment.rounds.count - 1)
    return last.summary.get("temperature", run.experiment.dream.temperature)


def _table(run: RunFacts) -> Table:
    task = run.experiment.task
    rows = []
    if run.scores:
        names = [CONTROLLER, *(name for name in run.scores if name != CONTROLLER)]
        rows += [Row(("This run",), "group"), *(_own_row(run, name, run.scores[name]) for name in names)]
    for title, scores in (
        ("Blind", published.BLIND), ("From the physical state", published.STATE), ("Published", published.PUBLISHED)
    ):  # fmt: skip
        if task in scores:
            rows += [Row((title,), "group"), *map(_published_row, scores[task])]
    columns = ("policy", "actual, mean ± sd", "se", "n", "dream, mean ± sd", "source")
    return Table("", columns, tuple(rows), "lrrrrl")


def _measured(run: RunFacts) -> str:
    """Measures of every policy besides the returns; empty if there are none."""
    told = [f"{named(run, name)}{found}" for name, score in run.scores.items() if (found := measured(score))]
    return f"Means over all steps: {'; '.join(told)}." if told else ""


def named(run: RunFacts, name: str) -> str:
    """The name of a scored policy of the run."""
    return controller(run.experiment) if name == CONTROLLER else policy(name)


def _own_row(run: RunFacts, name: str, score: Summary) -> Row:
    dream = scored(score["dream"]) if name == CONTROLLER else NOTHING
    actual = (spread(score["mean"], score["sd"]), number(score["se"]), f"{score['n']:,}")
    source = ", ".join(filter(None, ("this run, fresh seeds", score.get("backend"))))
    return Row((named(run, name), *actual, dream, source), "own" if name == CONTROLLER else "plain")


def _published_row(score: published.Score) -> Row:
    dream = spread(*score.dream, 0) if score.dream else NOTHING
    n = NOTHING if score.n is None else f"{score.n:,}"
    return Row((score.what, spread(score.mean, score.sd, 0), number(score.se), n, dream, score.source))


def _against_blind(run: RunFacts) -> str:
    """Whether C beats the best untrained policy, and by how many standard errors of the difference."""
    score, rivals = run.scores[CONTROLLER], _untrained(run)
    if not rivals:
        return ""
    what, rival = max(rivals.items(), key=lambda item: item[1]["mean"])
    difference, error = score["mean"] - rival["mean"], (score["se"] ** 2 + rival["se"] ** 2) ** 0.5
    side = "above" if difference > 0 else "below"
    told = f"The best untrained policy ({what}) scores {scored(rival)}: C is {number(abs(difference))} {side} it"
    return f"{told}, {number(abs(difference) / error)} standard errors of the difference." if error else f"{told}."


def _untrained(run: RunFacts) -> dict[str, dict[str, Any]]:
    """The run's own baselines, and the best blind policy measured elsewhere."""
    rivals = {
        f"{name}, this run": score
        for name, score in run.scores.items()
        if name != CONTROLLER and not name.startswith(EARLIER)
    }
    best = published.best_blind(run.experiment.task)
    if best is not None:
        rivals[best.what] = {"mean": best.mean, "sd": best.sd, "se": best.se, "n": best.n}
    return rivals
