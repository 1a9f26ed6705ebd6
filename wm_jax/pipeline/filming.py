"""The film of a run: C in the actual environment, what V sees of it, and C in the dream that begins at the same moment."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wm_jax.data.files import read_json, replacing
from wm_jax.data.latents import build
from wm_jax.dream import Dream, trajectory
from wm_jax.pipeline.context import Context
from wm_jax.pipeline.evolving import EVALUATIONS, load_agent, load_controller, load_controllers
from wm_jax.pipeline.scoring import EVOLUTIONS
from wm_jax.pipeline.training import encode_frames, reconstruct
from wm_jax.report import figures
from wm_jax.rollouts.acting import Lanes, Played
from wm_jax.rollouts.agent import Agent, AgentDriver, AgentParams
from wm_jax.run import RECORD

FRAMES = 300
"""Length of the film at most."""
CURVES, BESIDE, RETURNS = "learning_curves.png", "dream_beside_actual.png", "returns.png"
"""Files of the figures that are no films."""


def draw_figures(context: Context, round_number: int) -> None:
    """Draw the figures of a finished run that are not there or older than its result; where evolutions ran at several
    temperatures, also the film of the coldest dream, which is the first to be cheated."""
    folder = context.run.figures
    result = (context.stage("evaluation", round_number).path / RECORD).stat().st_mtime
    deployed = load_controller(context, round_number)[1]["evolution"]
    if _any_older((CURVES, BESIDE, RETURNS), folder, result):
        _draw_charts(context, round_number, deployed)
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


def _draw_charts(context: Context, round_number: int, deployed: int) -> None:
    """The figures that are no films, of the evolution that is `deployed`."""
    evaluations = [
        evaluation
        for evaluation in read_json(context.stage("controller", round_number).path / EVALUATIONS)
        if evaluation["evolution"] == deployed
    ]
    scores = read_json(context.run.path / "evaluation.json")
    baselines = [scores[name] for name in context.experiment.evaluate.baselines]
    steps = {"dream": context.experiment.dream.horizon, "actual": context.models.task.max_steps}
    paths = [context.run.figures / name for name in (CURVES, BESIDE, RETURNS)]
    with replacing(paths[0]) as curves, replacing(paths[1]) as beside, replacing(paths[2]) as returns:
        figures.learning_curves(curves, list(context.run.metrics()), deployed)
        figures.dream_beside_actual(beside, evaluations, baselines, steps)
        figures.returns_histogram(returns, {k: v for k, v in scores.items() if k != EVOLUTIONS})


def make_film(context: Context, round_number: int, weights: np.ndarray, temperature: float) -> dict[str, np.ndarray]:
    """{"actual", "seen by V", "dream"}: films [T, 64, 64, 3] uint8 of C's `weights` [D] that share their first moment. One
    that ends before the others stands still from there on, dimmed."""
    agent, params = load_agent(context, round_number)
    driver = AgentDriver(agent, params, weights[None])
    with Lanes(context.experiment.task, 1, context.screen.warn, max_steps=FRAMES) as lanes:
        played = lanes.play(driver, [(context.experiment.evaluate.seed, 0)], record=True)[0]
    frames = np.stack(played.frames)
    begin = min(context.experiment.dream.burn_in, len(frames) - 1)
    dream = _dream_from(agent, params, weights, temperature, played, begin, context)
    actual, length = frames[begin:], max(len(frames) - begin, len(dream))
    films = {"actual": actual, "seen by V": _pixels(reconstruct(agent.vision, params.vision, actual)), "dream": dream}
    return {name: _until(film, length) for name, film in films.items()}


def _until(film: np.ndarray, length: int) -> np.ndarray:
    """`film` [T, 64, 64, 3], made `length` long by its last frame at a third of its brightness."""
    return np.concatenate([film, np.repeat(film[-1:] // 3, length - len(film), axis=0)])


def _dream_from(
    agent: Agent, params: AgentParams, weights: np.ndarray, temperature: float, played: Played, begin: int,
    context: Context,
) -> np.ndarray:  # fmt: skip
    """What C dreams, at the temperature that it was evolved at, from frame `begin` of a played episode on, M having
    followed the frames before it."""
    stats = jax.device_get(encode_frames(agent.vision, params.vision, np.stack(played.frames[: begin + 1])))
    one = build(
        mean=stats.mean,
        log_var=stats.log_var,
        action=np.stack(played.actions[: begin + 1]),
        reward=np.asarray(played.rewards[: begin + 1], np.float32),
        length=np.array([begin + 1]),
        terminated=np.array([False]),
    )
    # Nobody asks what it earns there, so that an M without a reward can be filmed.
    config = dataclasses.replace(
        context.experiment.dream, start="anywhere", burn_in=begin, temperature=temperature, reward="survival"
    )
    dream = Dream(agent.memory, config)
    path = trajectory(
        dream, agent.controller, params.memory, one, jnp.asarray(weights), context.key("film", 0), steps=FRAMES
    )
    ended = np.flatnonzero(np.asarray(path.terminated))
    length = int(ended[0]) + 1 if len(ended) else FRAMES
    return _pixels(jax.jit(agent.vision.decode)(params.vision, path.z))[:length]


def _pixels(decoded: Any) -> np.ndarray:
    return np.round(np.asarray(decoded) * 255).astype(np.uint8)
