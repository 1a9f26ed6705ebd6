"""The films of a run: C in the actual environment, the world model's view of it, and C in a dream from the same first
frame."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from wm_jax.data.files import replacing
from wm_jax.data.training import spread
from wm_jax.dream import Dream, trajectory
from wm_jax.pipeline.context import Context
from wm_jax.pipeline.weights import load_controller, load_controllers, load_world
from wm_jax.report import figures
from wm_jax.rollouts.acting import Lanes, scripted_driver
from wm_jax.rollouts.agent import Agent, driver_of
from wm_jax.rollouts.limits import Limits
from wm_jax.run import RECORD
from wm_jax.types import Array, Key, Params, State
from wm_jax.worlds import WorldModel

FRAMES = 300
"""Maximum length of a film, in frames."""
ROUNDS, ROUNDS_IN_FILM = "film_rounds", 4
"""The name of the film of all rounds' dreams, and how many dreams it shows side by side."""


def make_films(context: Context, round_number: int) -> None:
    """Make the films of a finished run that are missing or older than its result: of the deployed controller; after
    evolutions at several temperatures, of the coldest dream, which is the first to be cheated; after several rounds, of
    each round's dream."""
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
            controller = jax.tree.map(lambda array, number=number: array[number], controllers)
            panels = make_film(context, round_number, controller, ends[number]["temperature"])
            _write(context, name, panels, panels)
    if round_number and _any_older((f"{ROUNDS}_strip.png", f"{ROUNDS}.gif"), folder, result):
        dreams = dreams_by_round(context, round_number)
        chosen = [list(dreams)[number] for number in spread(len(dreams), ROUNDS_IN_FILM)]
        _write(context, ROUNDS, dreams, {name: dreams[name] for name in chosen})


def _write(context: Context, name: str, rows: dict[str, np.ndarray], panels: dict[str, np.ndarray]) -> None:
    """Write films [T, 64, 64, 3] as a strip with one row each, and as an animation with one panel each."""
    folder = context.run.figures
    with replacing(folder / f"{name}_strip.png") as strip, replacing(folder / f"{name}.gif") as film:
        figures.strip(strip, rows)
        figures.film(film, panels, context.models.task.frames_per_second)


def _any_older(names: Sequence[str], folder: Path, moment: float) -> bool:
    """Whether one of these files is missing, or was written before `moment`, in file-system seconds."""
    paths = [folder / name for name in names]
    return not all(path.exists() and path.stat().st_mtime >= moment for path in paths)


def make_film(context: Context, round_number: int, weights: Params, temperature: float) -> dict[str, np.ndarray]:
    """{"actual", "seen", "dream"}: films [T, 64, 64, 3] uint8 of the controller `weights`, from the same first frame. A
    film that ends before the others repeats its last frame, dimmed."""
    models, params = context.models, load_world(context, round_number)
    driver, key = driver_of(Agent(models.world, models.actor), params, weights), context.key("film", 0)
    with Lanes(context.experiment.task, 1, context.screen.warn, Limits(FRAMES)) as lanes:
        played = lanes.play(driver, [(context.experiment.evaluate.seed, 0)], record=True)[0]
    frames = np.stack(played.frames)
    states = _follow(models.world, params, frames, np.stack(played.actions), key)
    films = {
        "actual": frames,
        "seen": _drawn(models.world, params, states),
        "dream": _dream_from(context, params, weights, temperature, jax.tree.map(lambda array: array[:1], states)),
    }
    length = max(map(len, films.values()))
    return {name: _until(film, length) for name, film in films.items()}


def dreams_by_round(context: Context, last: int) -> dict[str, np.ndarray]:
    """The dreams of each round's C in that round's world model, up to round `last`, by name: films [T, 64, 64, 3] uint8
    from the same actual frame (the paper's section 5 shows the first and the last round)."""
    models, key = context.models, context.key("film", 0)
    frame, action = _first_frame(context), np.zeros((1, models.world.action_size), np.float32)
    films = {}
    for number in range(last + 1):
        params, (weights, about) = load_world(context, number), load_controller(context, number)
        seen = _follow(models.world, params, frame, action, jax.random.clone(key))
        films[f"round {number}"] = _dream_from(context, params, weights, about["temperature"], seen)
    length = max(map(len, films.values()))
    return {name: _until(film, length) for name, film in films.items()}


def _first_frame(context: Context) -> np.ndarray:
    """The first frame [1, 64, 64, 3] of the first episode that is scored."""
    driver = scripted_driver(context.models.task, context.experiment.collect.policy, context.experiment.collect)
    with Lanes(context.experiment.task, 1, context.screen.warn, Limits(1)) as lanes:
        return np.stack(lanes.play(driver, [(context.experiment.evaluate.seed, 0)], record=True)[0].frames)


@partial(jax.jit, static_argnames="model")
def _follow(model: WorldModel, params: Params, frames: Array, actions: Array, key: Key) -> State:
    """The world model's states [T, ...] as it observes the frames [T, 64, 64, 3] of an episode with these actions [T,
    A]."""
    seen, keys = model.encode(params, frames), jax.random.split(key, len(frames))
    first, rest = (jax.tree.map(lambda array, part=part: array[part], (seen, keys)) for part in (0, slice(1, None)))

    def follow(state: State, step: tuple[Array, tuple[Any, Key]]) -> tuple[State, State]:
        action, (obs, key) = step
        following = model.observe(params, state, action, obs, key)
        return following, following

    begun = model.begin(params, *first)
    states = jax.lax.scan(follow, begun, (actions[:-1], rest))[1]
    return jax.tree.map(lambda one, many: jax.numpy.concatenate([one[None], many]), begun, states)


@partial(jax.jit, static_argnames="model")
def _frames(model: WorldModel, params: Params, states: State) -> Array:
    return jax.vmap(model.frame, (None, 0))(params, states)


def _drawn(model: WorldModel, params: Params, states: State) -> np.ndarray:
    """The frames decoded from states [T, ...]: [T, 64, 64, 3] uint8."""
    return np.round(np.asarray(_frames(model, params, states)) * 255).astype(np.uint8)


def _until(film: np.ndarray, length: int) -> np.ndarray:
    """`film` [T, 64, 64, 3], extended to `length` by its last frame at a third of its brightness."""
    return np.concatenate([film, np.repeat(film[-1:] // 3, length - len(film), axis=0)])


def _dream_from(context: Context, params: Params, weights: Params, temperature: float, starts: State) -> np.ndarray:
    """C's dream from the state `starts` [1, ...], at the temperature that C was evolved at."""
    models = context.models
    # The reward is not shown, so a world model that predicts none can be filmed too.
    config = dataclasses.replace(context.experiment.dream, temperature=temperature, reward="survival", full_return=None)
    dream, key = Dream(models.world, config), context.key("film", 0)
    path = trajectory(dream, models.actor, params, starts, weights, key, steps=FRAMES)
    ended = np.flatnonzero(np.asarray(path.terminated))
    length = int(ended[0]) + 1 if len(ended) else FRAMES
    return _drawn(models.world, params, path.state)[:length]
