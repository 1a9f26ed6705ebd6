"""Compares the controllers and planners of finished runs of one task, with the same world model or without one.

    python benchmarks/acting.py RUN... --out DIR [--mark RETURN]

The table has for each run: C and its search; the score in the dream and on fresh episodes of the actual environment (over
training seeds if several searches ran); dream steps of the search and of a decision; environment steps; minutes. With
`--mark`, also the dream steps until a search's validation score first reached that return. Results go to DIR/acting.json
and DIR/acting.md; earlier results of other runs are kept.
"""

import sys
from pathlib import Path
from statistics import mean
from typing import Any

import tyro
from tyro.conf import Positional

from wm_jax.actors import protocol as actors
from wm_jax.actors.planning import Planner
from wm_jax.data.files import read_json, write_json
from wm_jax.errors import UserError
from wm_jax.pipeline.reporting import read
from wm_jax.pipeline.searching import EVALUATIONS
from wm_jax.report.facts import RunFacts
from wm_jax.report.scores import CONTROLLER
from wm_jax.report.seeds import over_seeds
from wm_jax.report.words import NOTHING, number, spread
from wm_jax.run import RunDir

COLUMNS = (
    "C", "found by", "weights", "in the dream", "actual, mean ± sd", "se", "n", "dreamt steps: search, decision",
    "environment steps", "minutes",
)  # fmt: skip


def about(path: Path, mark: float | None) -> dict[str, Any]:
    """The results of a run."""
    run = read(path, path.name)
    if not run.scores:
        raise UserError(f"{path} has no score yet; finish it by the command that began it")
    actor, config, found = run.models.actor, run.experiment.evolve, run.found_by(run.searches[0])
    played = list(run.evolutions) or [{**run.scores[CONTROLLER], "actual": run.scores[CONTROLLER], "seed": 0}]
    dreams = [each["dream"] for each in played if each["dream"]]
    search = config.fitness == "dream" and run.searched
    return {
        "run": run.label,
        "actor": actor.words,
        "search": run.generation,
        "weights": actors.size(actor),
        "dream": over_seeds(dreams) if dreams else None,
        "actual": over_seeds([each["actual"] for each in played]),
        "seeds": [
            {"seed": each["seed"], **{name: each["actual"][name] for name in ("mean", "sd", "se", "n", "measures")}}
            for each in played
        ],
        "dream_steps": found.dream_steps * config.generations if search else 0,
        "dream_steps_of_a_decision": actor.dream_steps if isinstance(actor, Planner) else 0,
        "environment_steps": environment_steps(run) // len(played),
        "minutes": sum(s.summary["seconds"] for s in run.stages if s.stage == "evolve") / len(played) / 60,
        "mark": mark,
        "dream_steps_to_mark": (
            reached(path, found.dream_steps, mark) if mark is not None and search and config.actual_episodes else None
        ),
        "backend": run.experiment.evaluate.backend,
        "device": run.devices,
        "command": run.commands[-1],
    }


def environment_steps(run: RunFacts) -> int:
    """Steps of the actual environment that searches have learned from, all seeds together."""
    lines = [line for line in run.metrics if line["stage"].startswith("controller/")]
    return int(sum(sum(steps) if isinstance(steps := line.get("steps", 0), list) else steps for line in lines))


def reached(path: Path, steps: int, mark: float) -> list[int | None]:
    """For each search: dream steps until its validation score was at least `mark`; None: never."""
    evaluations = read_json(RunDir(path).stage("controller", 0).path / EVALUATIONS)
    found: dict[int, int | None] = {}
    for each in sorted(evaluations, key=lambda each: each["generation"]):
        number = each["evolution"]
        if found.get(number) is None:
            found[number] = each["generation"] * steps if each["actual"]["mean"] >= mark else None
    return [found[number] for number in sorted(found)]


def row(found: dict[str, Any]) -> str:
    """A line of the table."""
    actual, dream = found["actual"], found["dream"]
    each = ", ".join(spread(seed["mean"], seed["sd"]) for seed in found["seeds"])
    backend = f", {found['backend']}" if found.get("backend") else ""
    several = len(found["seeds"]) > 1
    score = f"**{spread(actual['mean'], actual['over'])}** ({each})" if several else f"**{each}**"
    counts = found["dream_steps"], found["dream_steps_of_a_decision"]
    steps = ", ".join(f"{count:,}" if count else NOTHING for count in counts)
    cells = (
        found["actor"], found["search"], f"{found['weights']:,}",
        spread(dream["mean"], dream["over"] if several else dream["sd"]) if dream else NOTHING, score,
        number(actual["se"]), f"{found['seeds'][0]['n']}{' each' if several else ''}{backend}", steps,
        f"{found['environment_steps']:,}" if found["environment_steps"] else NOTHING, number(found["minutes"]),
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main(runs: Positional[tuple[Path, ...]], out: Path, mark: float | None = None) -> None:
    """Read the runs, and write table and numbers."""
    out.mkdir(parents=True, exist_ok=True)
    known = out / "acting.json"
    before = {each["run"]: each for each in (read_json(known) if known.exists() else [])}
    found = list((before | {each["run"]: each for each in (about(path, mark) for path in runs)}).values())
    write_json(known, found)
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}", *map(row, found)]
    for each in found:
        if to_mark := each["dream_steps_to_mark"]:
            told = ", ".join("never" if steps is None else f"{steps:,}" for steps in to_mark)
            known = [steps for steps in to_mark if steps is not None]
            lines += ["", f"{each['run']}: {each['mark']:g} reached after {told} dreamt steps"
                          + (f" (mean {mean(known):,.0f})" if len(known) == len(to_mark) else "")]  # fmt: skip
    (out / "acting.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except UserError as error:
        sys.exit(f"acting.py: {error}")
