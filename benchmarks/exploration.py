"""Compares ways of collecting: runs of one task that share V and have their own M and C.

    python benchmarks/exploration.py RUN... --test RUN --out DIR

It reports for every round of every run: the frames recorded so far; M's negative log-likelihood on one fixed set of
episodes, some of each round of the run `--test`, encoded by the V that all runs share; and the validation score of the
round's C. For swing-up it also reports the share of 20 × 20 cells of (θ, θ̇) that the frames visit, and the entropy of
these visits, from the physical state, which follows from each record's seed and actions. At the end it reports the score of
the last C on fresh episodes. Runs that collect alike are one row: mean ± standard deviation over training seeds.
DIR/exploration.json has every run, DIR/exploration.md the table, DIR/exploration.png C's validation by frames recorded.
"""

import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from tyro.conf import Positional

from wm_jax.data.episodes import EpisodeStore
from wm_jax.data.files import read_json, write_atomically, write_json
from wm_jax.data.training import spread
from wm_jax.envs.swing_up import SwingUp
from wm_jax.errors import UserError
from wm_jax.experiment import Experiment
from wm_jax.memory.evaluation import evaluate
from wm_jax.models import Models
from wm_jax.pipeline.context import Context
from wm_jax.pipeline.progress import Interrupt, Screen
from wm_jax.pipeline.scoring import SCORES
from wm_jax.pipeline.searching import EVALUATIONS
from wm_jax.pipeline.stored import of_run
from wm_jax.pipeline.training import encode_episodes
from wm_jax.pipeline.weights import load_learner
from wm_jax.report.figures import figure, png, seed_curves
from wm_jax.rollouts.replay import replay
from wm_jax.run import RunDir

CELLS = 20
"""Number of cells along each axis."""
SPIN = 12.0
"""rad/s: faster spins fall into the outermost cells."""
TEST_EPISODES = 12
"""Test episodes from each round of the run `--test`."""


def visits(observations: list[np.ndarray]) -> np.ndarray:
    """[CELLS, CELLS]: how many observations [T, (x, ẋ, cos θ, sin θ, θ̇)] fall into each cell of (θ, θ̇)."""
    whole = np.concatenate(observations)
    angle = (np.arctan2(whole[:, 3], whole[:, 2]) / np.pi + 1) / 2
    spin = (whole[:, 4] / SPIN + 1) / 2
    numbers = [(np.clip(share, 0, 1 - 1e-6) * CELLS).astype(int) for share in (angle, spin)]
    return np.bincount(numbers[0] * CELLS + numbers[1], minlength=CELLS**2).reshape(CELLS, CELLS)


def evenness(counts: np.ndarray) -> float:
    """The entropy of visits, as a share of what it would be if all cells were visited alike."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum() / np.log(counts.size))


def arm(experiment: Experiment) -> str:
    """How a run collects, in words."""
    explorer, rounds = experiment.explorer, experiment.rounds
    if rounds.drivers == "scripted":
        return f"{experiment.collect.policy} policy"
    if explorer.goal is None:
        return "C"
    return f"C, and curiosity by {explorer.goal.reward} ({explorer.goal.share:.0%})"


def measure(context: Context, store: EpisodeStore, test: list[int]) -> dict[str, Any]:
    """The rounds and the final score of a run; M is tested on the episodes `test` of `store`."""
    experiment, environment = context.experiment, context.models.task.environment()
    memory, cells, frames, rounds = context.models.world.learners["memory"].model, np.zeros((CELLS, CELLS), int), 0, []
    recorded = encode_episodes(context, {"vision": load_learner(context, "vision", 0)}, store, test)
    for number in range(experiment.rounds.count):
        folder = context.stage("rollouts", number).path / "episodes"
        episodes = EpisodeStore([folder], None, [context.episodes_in(number)])
        played = [episodes.episode(index) for index in range(len(episodes))]
        frames += sum(len(episode.rewards) for episode in played)
        report = evaluate(memory, load_learner(context, "memory", number), recorded, jax.random.key(0))
        scores = [e["actual"]["mean"] for e in read_json(context.stage("controller", number).path / EVALUATIONS)]
        rounds.append({"frames": frames, "validation": max(scores), **report})
        if isinstance(environment, SwingUp):
            cells += visits(replay(environment, played))
            rounds[-1] |= {"visited": float((cells > 0).mean()), "evenness": evenness(cells)}
    final = read_json(context.run.path / SCORES)["controller"]
    score = {name: final[name] for name in ("mean", "sd", "se", "n", "seeds", "device")}
    return {"arm": arm(experiment), "seed": experiment.seed, "rounds": rounds, "score": score}


def table(found: list[dict[str, Any]]) -> str:
    """Every arm's rounds, the mean of its training seeds ± their standard deviation."""
    lines = []
    for title, name, digits in (
        ("Frames recorded", "frames", 0), ("Cells of (θ, θ̇) visited, %", "visited", 1),
        ("Entropy of the visits, % of the highest", "evenness", 1),
        ("M on the test set, nats per latent dimension (lower is better)", "nll", 3),
        ("M's error 20 steps on, open loop", "open_loop_20", 3), ("C's best validation score", "validation", 0),
    ):  # fmt: skip
        if name not in found[0]["rounds"][0]:
            continue
        rounds = range(max(len(run["rounds"]) for run in found))
        lines += [f"**{title}**", "", "| collected by | seeds | " + " | ".join(f"round {r + 1}" for r in rounds) + " |",
                  "|---|--:|" + "--:|" * len(rounds)]  # fmt: skip
        for label, runs in _arms(found).items():
            scale = 100 if name in ("visited", "evenness") else 1
            values = [[scale * run["rounds"][r][name] for run in runs] for r in rounds]
            lines.append(f"| {label} | {len(runs)} | {' | '.join(_spread(each, digits) for each in values)} |")
        lines.append("")
    lines += ["**The last C on fresh episodes**", "", "| collected by | mean of the seeds ± sd | each seed | n |",
              "|---|--:|--:|--:|"]  # fmt: skip
    for label, runs in _arms(found).items():
        means = [run["score"]["mean"] for run in runs]
        each = ", ".join(f"{mean:.0f}" for mean in means)
        lines.append(f"| {label} | {_spread(means, 0)} | {each} | {runs[0]['score']['n']} each |")
    return "\n".join(lines) + "\n"


def picture(found: list[dict[str, Any]]) -> bytes:
    """PNG of C's validation score by frames recorded: a thin line for each run, a thick one for the mean of an arm."""
    drawing = figure(6, 4)
    axis = drawing.subplots()
    for index, (label, runs) in enumerate(_arms(found).items()):
        curves = [np.array([(r["frames"], r["validation"]) for r in run["rounds"]]) for run in runs]
        seed_curves(axis, label, curves, f"C{index}")
    axis.set(xlabel="frames recorded", ylabel="validation score")
    axis.legend(fontsize="small")
    return png(drawing)


def _spread(values: list[float], digits: int) -> str:
    """Mean ± standard deviation; a single value alone."""
    told = f"{np.mean(values):,.{digits}f}"
    return f"{told} ± {np.std(values, ddof=1):,.{digits}f}" if len(values) > 1 else told


def _arms(found: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The runs by how they collect."""
    return {label: [run for run in found if run["arm"] == label] for label in dict.fromkeys(r["arm"] for r in found)}


def _context(path: Path) -> Context:
    experiment = of_run(RunDir.open(path), None, ()).experiment
    return Context(experiment, Models(experiment), RunDir.open(path), Screen(), Interrupt())


def main(runs: Positional[tuple[Path, ...]], test: Path, out: Path) -> None:
    """Measure the runs, and write DIR/exploration.json, DIR/exploration.md and DIR/exploration.png."""
    tested = _context(test)
    store = EpisodeStore([tested.stage("rollouts", r).path / "episodes" for r in range(tested.experiment.rounds.count)])
    counts = [tested.episodes_in(r) for r in range(tested.experiment.rounds.count)]
    begins = np.concatenate([[0], np.cumsum(counts)[:-1]])
    chosen = [int(begin + n) for begin, count in zip(begins, counts, strict=True) for n in spread(count, TEST_EPISODES)]
    found = []
    for path in runs:
        found.append(measure(_context(path), store, chosen))
        print(f"{path}: {found[-1]['arm']}, seed {found[-1]['seed']}", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "exploration.json", found)
    (out / "exploration.md").write_text(table(found))
    write_atomically(out / "exploration.png", picture(found))
    print(table(found))


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except UserError as error:
        sys.exit(f"exploration: {error}")
