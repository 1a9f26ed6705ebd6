"""Learning curves: validation scores over environment steps and over minutes.

    python benchmarks/learning_curves.py NAME=RUN[,RUN…]… --out DIR

A run that searches in the actual environment has a point for each evaluation: the steps of all episodes that it has learned
from. One with a world model has a point for each round: the frames recorded so far. Validation episodes decide what is
deployed in both, and are not counted. Runs of one name, or searches side by side in one run, are training seeds; the thick
line is their mean. DIR/learning_curves.json has every point, DIR/learning_curves.png the picture; curves of other names
that are there already stay.
"""

import sys
from pathlib import Path

import numpy as np
import tyro
from tyro.conf import Positional

from wm_jax.data.files import read_json, write_atomically, write_json
from wm_jax.errors import UserError
from wm_jax.pipeline.reporting import read
from wm_jax.report.facts import RunFacts
from wm_jax.report.figures import figure, png, seed_curves

Points = list[dict[str, float]]
"""[{"steps", "minutes", "score"}], in order."""


def curves(path: Path) -> list[Points]:
    """A curve for each training seed of a run."""
    run = read(path, path.name)
    return in_actual(run) if run.place == "actual" else [by_round(run)]


def in_actual(run: RunFacts) -> list[Points]:
    """A curve for each search in the actual environment; searches side by side share the minutes."""
    lines = [line for line in run.metrics if line["stage"] == "controller/round-0"]
    count, begun = run.side_by_side, lines[0]["time"]
    steps, found = np.zeros(count), [Points() for _ in range(count)]
    for line in lines:
        steps = steps + np.broadcast_to(line.get("steps", 0), count)
        if "mean_actual" in line:
            scores, minutes = np.broadcast_to(line["mean_actual"], count), (line["time"] - begun) / 60 / count
            for number, points in enumerate(found):
                points.append({"steps": float(steps[number]), "minutes": minutes, "score": float(scores[number])})
    return found


def by_round(run: RunFacts) -> Points:
    """The scores of each round's C in a run with a world model."""
    seconds, frames, found = 0.0, 0, Points()
    for stage in run.stages:
        seconds += stage.summary.get("seconds", 0.0) if stage.stage != "evaluate" else 0.0
        if stage.stage == "collect":
            frames += stage.summary.get("frames", 0)
        # A run may still be at work.
        if stage.stage == "evolve" and "actual" in stage.summary:
            found.append({"steps": frames, "minutes": seconds / 60, "score": stage.summary["actual"]["mean"]})
    return found


def main(runs: Positional[tuple[str, ...]], out: Path) -> None:
    """Read the runs; write points and picture."""
    known = out / "learning_curves.json"
    found: dict[str, list[Points]] = read_json(known) if known.exists() else {}
    for entry in runs:
        name, _, paths = entry.partition("=")
        if not paths:
            raise UserError(f"expected NAME=RUN[,RUN…], found {entry}")
        found[name] = [points for path in paths.split(",") for points in curves(Path(path))]
    write_json(known, found)
    drawing = figure(11, 4)
    labels = {"steps": "environment steps", "minutes": "minutes"}
    for axis, (x, label) in zip(drawing.subplots(1, 2), labels.items(), strict=True):
        for index, (name, seeds) in enumerate(found.items()):
            seed_curves(axis, name, [np.array([(p[x], p["score"]) for p in points]) for points in seeds], f"C{index}")
        axis.set(xlabel=label, ylabel="validation score", xscale="log")
        axis.legend()
    write_atomically(out / "learning_curves.png", png(drawing))


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except UserError as error:
        sys.exit(f"learning_curves.py: {error}")
