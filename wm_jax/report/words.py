"""How a report writes numbers."""

from collections.abc import Mapping
from typing import Any

from wm_jax.experiment import Experiment

NOTHING = "–"
"""Shown in place of a missing number."""


def number(value: float | None, decimals: int = 1) -> str:
    """For example −1,234.5."""
    return NOTHING if value is None else f"{value:,.{decimals}f}".replace("-", "−")


def measured(score: Mapping[str, Any]) -> str:
    """Measures of a score besides the returns, as ", upright 0.91"; scores of earlier versions have none."""
    return "".join(f", {name} {number(value, 2)}" for name, value in score.get("measures", {}).items())


EARLIER = "round-"
"""Prefix of the name of an earlier round's C among the scored policies; the round's number follows."""


def policy(name: str) -> str:
    """The name of a scored policy other than the deployed C."""
    return f"C of round {name.removeprefix(EARLIER)}" if name.startswith(EARLIER) else f"{name} policy"


def spread(mean: float, sd: float | None, decimals: int = 1) -> str:
    """Mean ± standard deviation, or the mean alone."""
    return number(mean, decimals) + ("" if sd is None else f" ± {number(sd, decimals)}")


PLACES = {"dream": "the dream", "actual": "the actual environment"}
"""Where C can be searched for."""


def scored(summary: dict[str, Any] | None) -> str:
    """A score with its number of episodes."""
    return NOTHING if summary is None else f"{spread(summary['mean'], summary['sd'])} (n = {summary['n']:,})"


def duration(seconds: float | None) -> str:
    """For example 3 h 05 min, 12 min 07 s or 9.5 s."""
    if seconds is None:
        return NOTHING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left:02d} min" if hours else f"{minutes} min {rest:02d} s"


def value(setting: Any) -> str:
    """A setting or a result of any kind, as text."""
    if setting is None:
        return NOTHING
    if isinstance(setting, float):
        return f"{setting:.4g}".replace("-", "−")
    if isinstance(setting, list | tuple):
        return ", ".join(value(part) for part in setting)
    return str(setting)


def controller(experiment: Experiment) -> str:
    """The deployed controller, described by its origin."""
    if not experiment.searched:
        return f"C ({experiment.actor.kind}), which needs no search"
    tuned = f", tuned in {PLACES['actual']}" if "tune" in experiment.searches else ""
    return f"C, found in {PLACES[experiment.evolve.fitness]}{tuned}"
