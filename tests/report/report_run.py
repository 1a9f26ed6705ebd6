"""A run's folder as the stages leave it, made of known numbers, and what a page of HTML says."""

import io
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wm_jax.data.files import write_json
from wm_jax.data.weights import save_weights
from wm_jax.experiment import Experiment
from wm_jax.pipeline.plan import plan
from wm_jax.pipeline.stored import to_store
from wm_jax.rollouts import RoundsConfig
from wm_jax.rollouts.evaluate import score, summary
from wm_jax.run import RunDir
from wm_jax.search.cma_es import CMAESConfig
from wm_jax.search.config import EvolveConfig

EXPERIMENT = Experiment(
    name="synthetic",
    task="take_cover",
    search=CMAESConfig(population=8, rollouts=4),
    evolve=EvolveConfig(generations=4, evaluate_every=2, evaluation_rollouts=16),
    rounds=RoundsConfig(count=2),
)
RANDOM = [200.0, 220.0, 250.5, 190.25]
CONTROLLER = [1000.0, 1400.5, 600.0, 1250.75]
VALIDATION = [811.0, 823.5]
DREAMS = {2: [900.0, 700.0, 812.0], 4: [1300.0, 1500.25, 900.0]}
SOUGHT = {1: [20.0, 30.0], 3: [50.0, 60.5]}
"""By generation: what the explorer's controller earns of its own reward."""
HELD_OUT = {"held_out_reconstruction": 12.34, "held_out_nll": 0.987}
MADE_WITH = {"device": "3 cores of Abacus", "versions": {"wm-jax": "9.8.7", "jax": "0.10.99"}}
COMMAND = "wm-jax run mine.py --seed 5"
SECONDS = {"collect": 11.5, "vision": 75, "encode": 3, "memory": 3725, "evolve": 59.5, "explore": 7, "evaluate": 6}


DEPLOYED = 2
"""Number of the deployed evolution where several ran side by side."""


def make_run(
    path: Path,
    finished: int = 11,
    evolutions: list[dict[str, Any]] | None = None,
    command: str = COMMAND,
    **settings: Any,
) -> Path:
    """A run whose first `finished` stages have their results, with `settings` beside those of `EXPERIMENT`. There are 11
    stages, 12 where the explorer searches, too."""
    experiment, run = replace(EXPERIMENT, **settings), RunDir(path)
    with run.locked():
        run.prepare(to_store(experiment), tensorboard=False)
    write_png(run.figures / "film_strip.png")
    for step in plan(experiment)[: finished + 1]:
        stage = step.folder(run)
        stage.begin(step.settings(experiment), {**MADE_WITH, "command": command})
        several, name = experiment.evolve.seeds > 1, step.stage.name
        write_results(run, stage.path, name, step.round_number, several, evolutions)
        if step in plan(experiment)[:finished]:
            stage.finish({**told(name, several), "seconds": SECONDS[name]})
    return path


def told(stage: str, several: bool) -> dict[str, Any]:
    """What a finished stage says of its result."""
    return {
        "vision": {"held_out_reconstruction": HELD_OUT["held_out_reconstruction"]},
        "memory": {"held_out_nll": HELD_OUT["held_out_nll"]},
        "collect": {"episodes": 7, "frames": 4321},
        "evolve": {"evolution": DEPLOYED if several else 0, "temperature": 1.15, "seed": 0, "generation": 4},
        "explore": {"evolution": 0, "temperature": 1.0, "seed": 0, "generation": 3},
    }.get(stage, {})


def write_results(run: RunDir, folder: Path, stage: str, round_number: int, several: bool, evolutions: Any) -> None:
    if stage in ("vision", "memory"):
        name = f"{stage}/round-{round_number}"
        loss = "reconstruction" if stage == "vision" else "nll"
        for step in (10, 20):
            run.log(name, step, {loss: 20.0 / step, "kl": 3.0})
        run.log(name, 20, {f"held_out_{loss}": HELD_OUT[f"held_out_{loss}"]})
        save_weights(folder / "weights.safetensors", {"layer": np.zeros((3, 5 if stage == "vision" else 7))}, {})
        write_png(run.figures / f"reconstructions-round{round_number}-step0000020.png")
    if stage == "evolve":
        deployed = told(stage, several)["evolution"]
        for step in range(1, 5):
            population: dict[str, Any] = {"worst": 10.0 * step, "mean": 20.0 * step, "best": 30.0 * step, "sigma": 0.1}
            if several:
                population = {name: [-1.0, -2.0, value, -3.0] for name, value in population.items()}
            run.log(f"controller/round-{round_number}", step, population)
        actual = summary(VALIDATION)
        evaluations = [
            {
                "evolution": number,
                "generation": g,
                "dream": summary(r if number == deployed else [0.0]),
                "actual": actual,
            }
            for g, r in DREAMS.items()
            for number in range(4 if several else 1)
        ]
        write_json(folder / "evaluations.json", evaluations)
        save_weights(folder / "weights.safetensors", {"weights": np.zeros(11)}, {})
    if stage == "explore":
        sought = [{"evolution": 0, "generation": g, "dream": summary(r), "actual": None} for g, r in SOUGHT.items()]
        write_json(folder / "evaluations.json", sought)
    if stage == "evaluate":
        scores: dict[str, Any] = {
            name: score(returns, range(1_000_000, 1_000_004), policy=name, **MADE_WITH)
            for name, returns in (("random", RANDOM), ("controller", CONTROLLER))
        }
        scores["controller"] |= {"selected_by": "actual", "generation": 4, "dream": summary(DREAMS[4]),
                                 "validation": summary(VALIDATION)}  # fmt: skip
        write_json(folder / "evaluation.json", scores | ({"evolutions": evolutions} if evolutions else {}))


def write_png(path: Path) -> None:
    target = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), 99, np.uint8)).save(target, "png")
    path.write_bytes(target.getvalue())


class Reader(HTMLParser):
    """What a browser would show and ask for: tables of cells, all other text, tags with attributes."""

    def __init__(self, html: str):
        super().__init__()
        self.text, self.tables, self.tags, self.open = "", [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, "tags are nested"

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data

    def rows(self, first: str) -> list[list[str]]:
        """The rows of all tables whose first cell is this."""
        return [row for table in self.tables for row in table if row[0] == first]
