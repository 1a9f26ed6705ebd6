"""Formats of run folders and bundles: older formats, their settings' current names, and how they are read.

Names are those of settings as the command line spells them. Flags with old names keep working through the same table.
"""

from collections.abc import Iterator
from typing import Any

FORMAT = 2
"""The format that is written today."""
BUNDLE = "wm-jax bundle {}"
"""How a bundle names its format."""
CHANGES = {
    1: "settings are now grouped by part (world, actor, search, explorer), and a controller's weights by layer",
}
"""What changed after each older format, in one line."""

RENAMED = {
    "vision.": "world.vision.",
    "memory.": "world.memory.",
    "controller.hidden_size": "actor.hidden_sizes",
    "controller.": "actor.",
    "evolve.search": "search.kind",
    "evolve.population": "search.population",
    "evolve.rollouts": "search.rollouts",
    "evolve.sigma": "search.sigma",
    "gradient.episodes": "dream.episodes",
    "gradient.": "search.",
    "rounds.action_noise": "explorer.action_noise",
    "rounds.random_stretches": "explorer.random_stretches",
    "rounds.stretch_length": "explorer.stretch_length",
    "rounds.vision_steps": "world.vision.later_steps",
    "rounds.memory_steps": "world.memory.later_steps",
    "tune.population": "tune.search.population",
    "tune.rollouts": "tune.search.rollouts",
    "tune.sigma": "tune.search.sigma",
}
"""Settings of format 1, or groups of them, and their current names. The first match counts."""
FEATURES = {"z": ["z"], "zh": ["z", "h"], "zhc": ["z", "c", "h"]}
"""Meaning of controller.features in format 1."""


GONE = ("dream.burn_in",)
"""Settings of format 1 that no longer have any effect."""


def renamed(name: str) -> str:
    """The current name of the setting `name` of format 1."""
    for old, new in RENAMED.items():
        if name == old or (old.endswith(".") and name.startswith(old)):
            return new + name.removeprefix(old)
    return name


def translated(name: str, value: Any) -> tuple[str, Any]:
    """The current name and the current value of a setting of format 1."""
    if name == "controller.hidden_size":
        value = [value] if value else []
    if name == "controller.features":
        value = FEATURES.get(value, value)
    return renamed(name), value


def upgrade_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Flat settings of format 1, by full name, under their current names."""
    search = settings.get("evolve.search", "cma_es")
    # Settings of the search that was not chosen had no effect.
    idle = ("gradient.",) if search == "cma_es" else ("evolve.population", "evolve.rollouts", "evolve.sigma")
    used = {name: value for name, value in settings.items() if not name.startswith(idle) and name not in GONE}
    return dict(translated(name, value) for name, value in used.items())


def upgrade_config(config: dict[str, Any]) -> dict[str, Any]:
    """Convert an experiment of format 1, as JSON, to the current format."""
    upgraded: dict[str, Any] = {}
    # The default of tune.sigma in format 1; a search without a warm start has a larger default.
    for name, value in upgrade_settings({"tune.sigma": 0.03, **dict(_walk("", config))}).items():
        *groups, last = name.split(".")
        inner = upgraded
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = value
    return upgraded


def _walk(prefix: str, values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _walk(f"{prefix}{name}.", value)
        else:
            yield f"{prefix}{name}", value


def note(path: object, found: int) -> str:
    """The message shown when an older format is read; empty for the current format."""
    if found == FORMAT:
        return ""
    return f"{path} has format {found}; the current format is {FORMAT}: {CHANGES[found]}; it is read unchanged"


def upgrade_arguments(arguments: list[str]) -> list[str]:
    """Convert a command's arguments of format 1 to current flags and values."""
    known = {old.replace("_", "-") for old in RENAMED}
    upgraded, values = [], iter(arguments)
    for argument in values:
        flag, equals, attached = argument.partition("=")
        name = flag.removeprefix("--")
        if not flag.startswith("--") or not any(name.replace("_", "-").startswith(old) for old in known):
            upgraded.append(argument)
            continue
        old = name.replace("-", "_")
        if old in ("controller.hidden_size", "controller.features"):
            value = attached if equals else next(values, "")
            new, found = translated(old, int(value) if value.isdigit() else value)
            upgraded += [f"--{new}", *map(str, found if isinstance(found, list) else [found])]
        else:
            upgraded += [f"--{renamed(old)}{equals}{attached}"]
    return upgraded
