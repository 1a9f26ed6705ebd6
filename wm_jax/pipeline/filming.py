"""The films of a run: C in the actual environment, what V sees of it, and C in the dream that begins at the same moment."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wm_jax.data.files import replacing
from wm_jax.data.latents import build
from wm_jax.dream import Dream, trajectory
from wm_jax.pipeline.context import Context
from wm_jax.pipeline.evolving import load_agent, load_controller, load_controllers
from wm_jax.pipeline.training import encode_frames, reconstruct
from wm_jax.report import figures
from wm_jax.rollouts.acting import Lanes, Played
from wm_jax.rollouts.agent import Agent, AgentDriver, AgentParams
from wm_jax.rollouts.limits import Limits
from wm_jax.run import RECORD

FRAMES = 300
"""Length of the film at most."""


def make_films(context: Context, round_number: int) -> None:
    """Make the films of a finished run that are not there or older than its result: the deployed controller's, and where
    evolutions ran at several temperatures also that of the coldest dream, which is the first to be cheated."""
    folder = context.run.figures
    result = (context.stage("evaluation", round_number).path / RECORD).stat().st_mtime
    deployed = load_controller(context, round_number)[1]["evolution"]
    controllers, ends = load_controllers(context, round_number)
    coldest = min(range(len(ends)), key=lambda number: ends[number]["temperature"])
    films = {"film": deployed}
    if ends[coldest]["temperature"] < ends[deployed]["temperature"]:
        films["film_coldest"] = coldest
    for name, number in films.items():
        files = (f"{name}_strip.png", f"{name}.gif")
        if _any_older(files, folder, result):
            panels = make_film(context, round_number, controllers[number], ends[number]["temperature"])
            with replacing(folder / files[0]) as strip, replacing(folder / files[1]) as film:
                figures.strip(strip, panels)
                figures.film(film, panels, context.models.task.frames_per_second)


def _any_older(names: Sequence[str], folder: Path, moment: float) -> bool:
    """Whether one of these files is not there or was last written before `moment`, in seconds of the file system."""
    paths = [folder / name for name in names]
    return not all(path.exists() and path.stat().st_mtime >= moment for path in paths)


def make_film(context: Context, round_number: int, weights: np.ndarray, temperature: float) -> dict[str, np.ndarray]:
    """{"actual", "seen by V", "dream"}: films [T, 64, 64, 3] uint8 of C's `weights` [D] that share their first moment. One
    that ends before the others stands still from there on, dimmed."""
    agent, params = load_agent(context, round_number)
    driver = AgentDriver(agent, params, weights[None])
    with Lanes(context.experiment.task, 1, context.screen.warn, Limits(FRAMES)) as lanes:
        played = lanes.play(driver, [(context.experiment.evaluate.seed, 0)], record=True)[0]
    frames = np.stack(played.frames)
    seen = _pixels(reconstruct(agent.vision, params.vision, frames))
    films = {
        "actual": frames,
        "seen by V": seen,
        "dream": _dream_from(agent, params, weights, temperature, played, context),
    }
    length = max(map(len, films.values()))
    return {name: _until(film, length) for name, film in films.items()}


def _until(film: np.ndarray, length: int) -> np.ndarray:
    """`film` [T, 64, 64, 3], made `length` long by its last frame at a third of its brightness."""
    return np.concatenate([film, np.repeat(film[-1:] // 3, length - len(film), axis=0)])


def _dream_from(
    agent: Agent, params: AgentParams, weights: np.ndarray, temperature: float, played: Played, context: Context
) -> np.ndarray:
    """What C dreams, at the temperature that it was evolved at, from the first frame of a played episode on."""
    stats = jax.device_get(encode_frames(agent.vision, params.vision, np.stack(played.frames[:1])))
    one = build(
        mean=stats.mean,
        log_var=stats.log_var,
        action=np.stack(played.actions[:1]),
        reward=np.asarray(played.rewards[:1], np.float32),
        length=np.array([1]),
        terminated=np.array([False]),
    )
    # Nobody asks what it earns there, so that an M without a reward can be filmed.
    config = dataclasses.replace(context.experiment.dream, temperature=temperature, reward="survival", full_return=None)
    dream = Dream(agent.memory, config)
    path = trajectory(
        dream, agent.controller, params.memory, one, jnp.asarray(weights), context.key("film", 0), steps=FRAMES
    )
    ended = np.flatnonzero(np.asarray(path.terminated))
    length = int(ended[0]) + 1 if len(ended) else FRAMES
    return _pixels(jax.jit(agent.vision.decode)(params.vision, path.z))[:length]


def _pixels(decoded: Any) -> np.ndarray:
    return np.round(np.asarray(decoded) * 255).astype(np.uint8)
