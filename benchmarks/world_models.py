"""Compares world models on the same held-out episodes: forecast error, training time, dream speed, and the score of the C
that was found in each.

    python benchmarks/world_models.py RUN... --out DIR [--episodes-of RUN]

Each model follows 20 recorded steps of an episode that none was trained on, then dreams on with the recorded actions: the
squared error of what it draws (the mean of 8 dreams) against the actual frame, summed over pixels, and the correlation of
the rewards added up so far. Beside it two forecasts that know nothing: the last frame that was seen, and the mean frame.
The episodes are those that the first run holds out, of all its rounds, unless `--episodes-of` names another run: runs that
are to be compared record the same episodes (the same seed and collection, or `--reuse`). Runs that differ in their seed
alone are training seeds of one model. DIR/world_models.json has every number, DIR/world_models.md the table.
"""

import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from tyro.conf import Positional

from wm_jax.data.files import write_json
from wm_jax.errors import UserError
from wm_jax.models import Models
from wm_jax.pipeline.context import Context
from wm_jax.pipeline.progress import Interrupt, Screen
from wm_jax.pipeline.reporting import read
from wm_jax.pipeline.stored import of_run
from wm_jax.pipeline.training import encode_episodes
from wm_jax.pipeline.weights import load_world
from wm_jax.report.scores import CONTROLLER
from wm_jax.report.words import NOTHING, number, spread
from wm_jax.run import RunDir
from wm_jax.types import Key, Observations, Params
from wm_jax.worlds import WorldModel
from wm_jax.worlds.forecast import BURN_IN, forecasts, places

HORIZONS = 5, 20, 50, 100
PLACES = 64
LANES, STEPS, TRIES = 512, 100, 5
"""Dreams side by side, steps of each, and how often they are timed; the best time counts."""


def opened(path: Path) -> Context:
    """A finished run."""
    experiment = of_run(RunDir.open(path)).experiment
    return Context(experiment, Models(experiment), RunDir(path), Screen(), Interrupt())


def foreseen(model: WorldModel, params: Params, recorded: Observations, frames: np.ndarray, key: Key) -> dict[str, Any]:
    """Errors and correlations after each horizon; `frames` are the recorded ones [N, 64, 64, 3] uint8."""
    begins = places(np.asarray(recorded.start), np.asarray(recorded.length), max(HORIZONS), PLACES)
    if not len(begins):
        raise UserError(f"a forecast needs held-out episodes of {BURN_IN + max(HORIZONS) + 1} steps, none is as long; give "
                        "another --episodes-of")  # fmt: skip
    drawn, earned = forecasts(model, params, recorded, begins, HORIZONS, key)
    reward = np.asarray(recorded.reward)
    before = frames[begins + BURN_IN].astype(np.float32) / 255
    mean = frames.astype(np.float32).mean(axis=0) / 255
    found: dict[str, Any] = {"places": len(begins), "error": {}, "repeat_last": {}, "mean_frame": {}, "reward": {}}
    for row, horizon in enumerate(HORIZONS):
        actual = frames[begins + BURN_IN + horizon].astype(np.float32) / 255
        for name, guess in {"error": drawn[row], "repeat_last": before, "mean_frame": mean}.items():
            found[name][horizon] = float(np.square(guess - actual).sum(axis=(1, 2, 3)).mean())
        came = np.array([reward[at + BURN_IN : at + BURN_IN + horizon].sum() for at in begins])
        known = np.ptp(came) > 0 and np.ptp(earned[row]) > 0
        found["reward"][horizon] = float(np.corrcoef(earned[row], came)[0, 1]) if known else None
    return found


def speed(model: WorldModel, params: Params, recorded: Observations) -> float:
    """Dream steps a second, of `LANES` dreams side by side with random actions."""
    one = jax.tree.map(lambda array: array[0], recorded.encoded)
    state = model.begin(params, one, jax.random.key(0))
    states = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (LANES, *leaf.shape)), state)

    @jax.jit
    def dream(params: Params, states: Any, key: Key) -> Any:
        def step(states: Any, key: Key) -> tuple[Any, None]:
            action_key, noise_key = jax.random.split(key)
            action = jax.random.uniform(action_key, (LANES, model.action_size), jnp.float32, -1, 1)
            noise = jax.vmap(model.noise)(jax.random.split(noise_key, LANES))
            imagine = jax.vmap(model.imagine, (None, 0, 0, 0, None))
            return imagine(params, states, action, noise, 1.0)[0], None

        return jax.lax.scan(step, states, jax.random.split(key, STEPS))[0]

    jax.block_until_ready(dream(params, states, jax.random.key(1)))
    taken = []
    for _ in range(TRIES):
        begun = time.perf_counter()
        jax.block_until_ready(dream(params, states, jax.random.key(1)))
        taken.append(time.perf_counter() - begun)
    return LANES * STEPS / min(taken)


def about(path: Path, data: Context) -> dict[str, Any]:
    """The results of a run's world model on the held-out episodes of `data`."""
    context, facts = opened(path), read(path, path.name)
    last, of_data = context.experiment.rounds.count - 1, data.experiment.rounds.count - 1
    params, store, held_out = load_world(context, last), data.store(of_data), data.held_out_episodes(of_data)
    if not len(held_out):
        raise UserError(f"{data.run.path} holds out no episodes (held_out is 0)")
    recorded = encode_episodes(context, params, store, [int(number) for number in held_out])
    frames = np.concatenate([store.episode(int(number)).frames for number in held_out])
    model = context.models.world
    learners = set(model.learners)
    score = facts.scores.get(CONTROLLER)
    return {
        "run": facts.label,
        "world": context.experiment.world.kind,
        "seed": context.experiment.seed,
        "weights": {name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in params.items()},
        **foreseen(model, params, recorded, frames, jax.random.key(0)),
        "training_minutes": sum(s.summary["seconds"] for s in facts.stages if s.stage in learners) / 60,
        "dream_steps_a_second": speed(model, params, recorded),
        "score": {name: score[name] for name in ("mean", "sd", "se", "n")} if score else None,
        "device": facts.devices,
        "command": facts.commands[-1],
    }


def row(found: dict[str, Any]) -> str:
    """A line of the table."""
    known = [NOTHING if value is None else f"{value:.2f}" for value in found["reward"].values()]
    score = found["score"]
    cells = (
        found["run"], f"{sum(found['weights'].values()):,}", " / ".join(number(v) for v in found["error"].values()),
        " / ".join(known), number(found["training_minutes"]), f"{found['dream_steps_a_second']:,.0f}",
        f"{spread(score['mean'], score['sd'])} (n = {score['n']})" if score else NOTHING,
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main(runs: Positional[tuple[Path, ...]], out: Path, episodes_of: Path | None = None) -> None:
    """Read the runs, and write table and numbers."""
    data = opened(episodes_of or runs[0])
    found = [about(path, data) for path in runs]
    write_json(out / "world_models.json", found)
    steps = " / ".join(map(str, HORIZONS))
    header = ("world model", "weights", f"error after {steps} steps", "reward known", "minutes of training",
              "dream steps/s", "C, actual")  # fmt: skip
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}", *map(row, found)]
    for name, words in (("repeat_last", "the last frame"), ("mean_frame", "the mean frame")):
        errors = " / ".join(number(value) for value in found[0][name].values())
        lines.append(f"| {words} | {NOTHING} | {errors} |{f' {NOTHING} |' * (len(header) - 3)}")
    (out / "world_models.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except UserError as error:
        sys.exit(f"world_models.py: {error}")
