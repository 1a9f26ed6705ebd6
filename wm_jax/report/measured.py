"""The measured scores of runs, as plain entries for a JSON file that outlives the runs."""

from collections.abc import Sequence
from typing import Any

from wm_jax.report.facts import RunFacts, Summary
from wm_jax.report.scores import CONTROLLER, named
from wm_jax.report.seeds import by_temperature, over_seeds

SUMMARY = ("mean", "sd", "se", "n")


def entries(runs: Sequence[RunFacts]) -> list[dict[str, Any]]:
    """Every score in the actual environment: each run's policies, then its evolutions side by side, and their combined
    scores.

    Each entry has what, mean, sd, se, n, seeds ([first, last]), command, device and versions. A controller's entry also
    has temperature, evolution_seed, generation and selected_by, and dream (mean, sd, se, n) if it was evolved in one.
    """
    return [entry for run in runs for entry in (*_policies(run), *_evolutions(run), *_together(run))]


def _policies(run: RunFacts) -> list[dict[str, Any]]:
    deployed = run.stage(run.chosen_by.stage, run.experiment.rounds.count - 1).summary
    found = []
    for name, score in run.scores.items():
        about = _controller(run, {**deployed, **score}) if name == CONTROLLER else {}
        found.append(_entry(run, named(run, name), score) | about)
    return found


def _evolutions(run: RunFacts) -> list[dict[str, Any]]:
    """The final controller of each evolution."""
    found = []
    for each in run.evolutions:
        temperature = f" at τ {each['temperature']:g}" if run.place == "dream" else ""
        what = f"{named(run, CONTROLLER)}{temperature}, seed {each['seed']}"
        found.append(_entry(run, what, each["actual"]) | _controller(run, each))
    return found


def _together(run: RunFacts) -> list[dict[str, Any]]:
    """The evolutions of each temperature combined, if there were several: the mean of their means, `over`, the standard
    deviation over seeds, `seeds_of_training`, their number, and sd, the standard deviation of single episodes."""
    return [
        {
            "what": f"{run.label}: {named(run, CONTROLLER)}, over training seeds",
            **over_seeds([each["actual"] for each in alike]),
            "seeds_of_training": len(alike),
            **({"temperature": temperature} if run.place == "dream" else {}),
        }
        for temperature, alike in by_temperature(run).items()
        if len(alike) > 1
    ]


def _entry(run: RunFacts, what: str, score: Summary) -> dict[str, Any]:
    record = run.stages[-1].record or {}
    return {
        "what": f"{run.label}: {what}",
        **{name: score[name] for name in SUMMARY},
        "seeds": [score["seeds"][0], score["seeds"][-1]],
        "command": record.get("command"),
        "device": score["device"],
        "versions": score["versions"],
    }


def _controller(run: RunFacts, about: dict[str, Any]) -> dict[str, Any]:
    """How a controller was evolved and chosen."""
    found = {
        "temperature": about.get("temperature") if run.place == "dream" else None,
        "evolution_seed": about.get("seed"),
        "generation": about.get("generation"),
        "selected_by": run.scores[CONTROLLER]["selected_by"],
        "dream": about["dream"] and {name: about["dream"][name] for name in SUMMARY},
    }
    return {name: value for name, value in found.items() if value is not None}
