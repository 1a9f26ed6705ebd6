"""Describes an experiment before it runs: parameters, shapes, disk, memory and work."""

import math
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wm_jax.actors import protocol as actors
from wm_jax.data.observations import bytes_of_a_frame, padded_size
from wm_jax.experiment import Experiment, flatten
from wm_jax.models import Models
from wm_jax.parallel import key_shape
from wm_jax.pipeline import episode_learning, side_by_side
from wm_jax.pipeline.checking import check
from wm_jax.pipeline.searching import actual_search
from wm_jax.search import EpisodeSearch, PopulationSearch, Search
from wm_jax.tasks import FRAME_SHAPE
from wm_jax.types import FLOAT


def describe(experiment: Experiment) -> dict[str, Any]:
    """{"parameters", "shapes", "disk", "device memory", "work", "settings"}: bytes and floating point operations (FLOP).

    Episodes are assumed to have the task's typical length. A matrix product counts two FLOP for each multiplication, a
    training step three times its forward pass. "Acting" is what dreams and frames take, without the networks that a
    search trains. Raises `UserError` if settings do not fit together.
    """
    models = Models(experiment)
    check(experiment, models)
    weights = models.state_shapes[0]
    parameters = {name: _count(weights[name]) for name in models.world.learners}
    search, frames = models.search(experiment.evolve.generations), recorded_frames(experiment, models)
    return {
        "parameters": {**parameters, "controller": actors.size(models.actor)},
        "shapes": _shapes(models, search),
        "disk": _disk(experiment, models, frames, parameters),
        "device memory": _memory(experiment, models, search, frames, parameters),
        "work": _work(experiment, models, search, frames, parameters),
        "settings": flatten(experiment),
    }


def recorded_frames(experiment: Experiment, models: Models) -> int:
    """Expected number of frames that all rounds record."""
    longest = experiment.collect.max_steps or models.task.max_steps
    later = (experiment.rounds.count - 1) * experiment.rounds.episodes
    length = models.task.typical_length
    return experiment.collect.episodes * min(length, longest) + later * length


def recorded_episodes(experiment: Experiment) -> int:
    """Number of episodes that all rounds record."""
    return experiment.collect.episodes + (experiment.rounds.count - 1) * experiment.rounds.episodes


def _count(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _shapes(models: Models, search: Search) -> dict[str, list[int]]:
    return {
        "frame": list(FRAME_SHAPE),
        **{name: [size] for name, size in models.feature_sizes.items()},
        "action": [models.world.action_size],
        "C reads": [sum(models.feature_sizes[name] for name in models.actor.features or models.feature_sizes)],
        **search.shapes,
    }


def _disk(experiment: Experiment, models: Models, frames: int, parameters: dict[str, int]) -> dict[str, int]:
    return {
        "recorded frames": frames * models.task.typical_frame_bytes,
        "encoded frames": experiment.views * frames * _encoded(models),
        "checkpoints": 2 * 3 * FLOAT * max(parameters.values(), default=0)
        + experiment.rounds.count * FLOAT * sum(parameters.values()),
    }


def _encoded(models: Models) -> int:
    """Bytes of an encoded frame."""
    return bytes_of_a_frame(models.state_shapes[1], models.world.action_size)


def _memory(
    experiment: Experiment, models: Models, search: Search, frames: int, parameters: dict[str, int]
) -> dict[str, int]:
    learners = models.world.learners
    episodes = recorded_episodes(experiment)
    if experiment.evolve.fitness == "actual" and isinstance(search, EpisodeSearch):
        starts, work = 0, episode_learning.bytes_at_work(models, search, experiment.evolve)
    else:
        work = side_by_side.bytes_at_work(experiment, models, search)
        starts = side_by_side.bytes_of_starts(models, search, experiment.views * episodes, frames / episodes)
    encoded = experiment.views * frames
    # A learner that reads them holds a copy, padded so that it seldom compiles anew.
    copied = padded_size(encoded) if any(each.reads == "observations" for each in learners.values()) else 0
    return {
        **{f"training {name}": learner.bytes_in_training(parameters[name]) for name, learner in learners.items()},
        "encoded frames on the device": (encoded + copied) * _encoded(models),
        "states that dreams start in": starts,
        "searches side by side": experiment.evolve.evolutions * (search.bytes_at_rest() + work),
    }


def _flop(function: Any, *shapes: Any) -> int:
    """Floating point operations of a function for arrays of these shapes."""
    return int((jax.jit(function).lower(*shapes).cost_analysis() or {}).get("flops", 0))


def _work(
    experiment: Experiment, models: Models, search: Search, frames: int, parameters: dict[str, int]
) -> dict[str, int]:
    world, evolve, rounds = models.world, experiment.evolve, experiment.rounds
    params, _, state = models.state_shapes
    action = jax.ShapeDtypeStruct((world.action_size,), jnp.float32)
    image = _flop(world.encode, params, jax.ShapeDtypeStruct(FRAME_SHAPE, jnp.uint8))
    noise = jax.eval_shape(world.noise, key_shape())
    step = _flop(partial(world.imagine, temperature=1.0), params, state, action, noise)
    acting = step + int(step * models.actor.planned_steps)
    later, whole, seen = rounds.count - 1, models.task.max_steps, acting + image
    recorded = experiment.views * rounds.episodes * models.task.typical_length
    training = {
        f"training {name}": learner.flop(parameters[name]) * (learner.steps + later * learner.steps_after(recorded))
        for name, learner in world.learners.items()
    }
    evaluation = evolve.actual_episodes * whole * seen
    if evolve.fitness == "dream":
        evaluation += evolve.evaluation_rollouts * experiment.dream.horizon * acting
        # Candidates act as they will when deployed; a policy that learns acts by itself, also where a planner uses it.
        generation = search.dream_steps * (acting if isinstance(search, PopulationSearch) else step)
    else:
        playing = actual_search(models, evolve, tunes=False)
        generation = playing.episodes * (evolve.max_steps or whole) * seen
    # For each round: its generations, and its candidates' evaluations.
    counts = [evolve.generations, *later * [rounds.generations or evolve.generations]]
    evaluations = sum(len(replace(evolve, generations=count).evaluated) for count in counts) + experiment.initial_actor
    return {
        "encoding a frame": image,
        "a dream step": step,
        **training,
        "encoding": experiment.views * frames * image,
        "acting in a generation at most": generation,
        "acting in the search at most": evolve.evolutions * (sum(counts) * generation + evaluations * evaluation),
        **_exploring(experiment, search.dream_steps, step),
        **_tuning(experiment, models, whole, seen),
    }


def _exploring(experiment: Experiment, dream_steps: int, step: int) -> dict[str, int]:
    if experiment.exploring is None:
        return {}
    config = experiment.exploring.evolve
    evaluations = len(config.evaluated) * config.evaluation_rollouts * experiment.dream.horizon
    whole = (experiment.rounds.count - 1) * (config.generations * dream_steps + evaluations)
    return {"acting in the explorer's search at most": whole * step}


def _tuning(experiment: Experiment, models: Models, whole: int, seen: int) -> dict[str, int]:
    tune = experiment.tune
    if not tune.generations:
        return {}
    search = actual_search(models, tune.as_evolution, tunes=True)
    played = search.episodes
    # The controller that tuning starts from is validated too.
    validations = (1 + len(tune.as_evolution.evaluated)) * tune.actual_episodes * whole
    return {
        "acting in the tuning at most": (tune.generations * played * (tune.max_steps or whole) + validations) * seen
    }


def table(facts: dict[str, Any]) -> str:
    """`describe`'s facts as readable text."""
    units = {"parameters": ("", 1000), "disk": ("B", 1024), "device memory": ("B", 1024), "work": ("FLOP", 1000)}
    lines = []
    for title, values in facts.items():
        lines.append(title)
        for name, value in values.items():
            if title == "parameters":
                text = f"{value:,}"
            elif title in units:
                text = _scaled(value, *units[title])
            elif title == "shapes":
                text = " × ".join(map(str, value))
            else:
                text = str(value)
            lines.append(f"  {name:<34} {text}")
    return "\n".join(lines)


def _scaled(value: float, unit: str, base: int) -> str:
    prefixes = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei") if base == 1024 else ("", "k", "M", "G", "T", "P", "E")
    power = min(int(np.log(max(value, 1)) / np.log(base)), len(prefixes) - 1)
    return f"{value / base**power:.3g} {prefixes[power]}{unit}"
