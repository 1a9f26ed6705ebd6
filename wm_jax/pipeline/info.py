"""What an experiment takes, told before it is run: parameters, shapes, disk, memory and work."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wm_jax.experiment import Experiment, flatten
from wm_jax.pipeline import side_by_side
from wm_jax.pipeline.context import Models
from wm_jax.pipeline.side_by_side import FLOAT
from wm_jax.tasks import FRAME_SHAPE


def describe(experiment: Experiment) -> dict[str, Any]:
    """{"parameters", "shapes", "disk", "memory", "work", "settings"}: bytes and floating point operations (FLOP).

    Episodes are taken to last as long as is typical for the task; a product of matrices counts two FLOP per
    multiplication, a training step three times its forward pass.
    """
    models = Models(experiment)
    parameters = {
        "vision": _count(jax.eval_shape(models.vision.init, jax.random.key(0))),
        "memory": _count(jax.eval_shape(models.memory.init, jax.random.key(0))),
        "controller": models.controller.size,
    }
    frames = recorded_frames(experiment, models)
    return {
        "parameters": parameters,
        "shapes": _shapes(experiment, models),
        "disk": _disk(experiment, models, frames, parameters),
        "memory": _memory(experiment, models, frames, parameters),
        "work": _work(experiment, models, frames, parameters),
        "settings": flatten(experiment),
    }


def recorded_frames(experiment: Experiment, models: Models) -> int:
    """Frames that all rounds are expected to record."""
    longest = experiment.collect.max_steps or models.task.max_steps
    later = (experiment.rounds.count - 1) * experiment.rounds.episodes
    length = models.task.typical_length
    return experiment.collect.episodes * min(length, longest) + later * length


def _count(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _shapes(experiment: Experiment, models: Models) -> dict[str, list[int]]:
    memory = models.memory
    return {
        "frame": list(FRAME_SHAPE),
        "z": [memory.latent_size],
        "action": [memory.action_size],
        "h": [memory.config.hidden_size],
        "M's inputs": [memory.input_size],
        "M's outputs": [memory.output_size],
        "C's inputs": [models.controller.layers[0][0]],
        **_generation(experiment, models),
    }


def _generation(experiment: Experiment, models: Models) -> dict[str, list[int]]:
    evolve, gradient = experiment.evolve, experiment.gradient
    if evolve.search == "policy_gradient":
        return {
            "C's weights": [models.controller.size],
            "decisions of a generation": [gradient.decisions, gradient.dreams],
        }
    played = "dreams" if evolve.fitness == "dream" else "episodes"
    return {
        "population": [evolve.population, models.controller.size],
        f"{played} of a generation": [evolve.population, evolve.rollouts],
    }


def _disk(experiment: Experiment, models: Models, frames: int, parameters: dict[str, int]) -> dict[str, int]:
    return {
        "recorded frames": frames * models.task.typical_frame_bytes,
        "latents": experiment.views * frames * _latent_bytes(models),
        "checkpoints": 2 * 3 * FLOAT * max(parameters["vision"], parameters["memory"])
        + experiment.rounds.count * FLOAT * (parameters["vision"] + parameters["memory"]),
    }


def _latent_bytes(models: Models) -> int:
    return 2 * 2 * models.memory.latent_size + FLOAT * (models.memory.action_size + 1)


def _memory(experiment: Experiment, models: Models, frames: int, parameters: dict[str, int]) -> dict[str, int]:
    config = experiment.memory
    # Outputs of V's layers, in multiples of its width: side² × channels of each, then the frame in and out.
    layers = 31**2 + 2 * 14**2 + 4 * 6**2 + 8 * 2**2 + 4 * 5**2 + 2 * 13**2 + 30**2
    per_image = FLOAT * (experiment.vision.width * layers + 2 * math.prod(FRAME_SHAPE))
    sequence = config.batch_size * config.sequence_length
    return {
        "V's training": 4 * FLOAT * parameters["vision"] + 3 * experiment.vision.batch_size * per_image,
        "latents on the device": experiment.views * frames * _latent_bytes(models),
        "M's training": 4 * FLOAT * parameters["memory"]
        + FLOAT * sequence * (10 * config.hidden_size + 4 * models.memory.output_size),
        "evolutions side by side": experiment.evolve.evolutions
        * (side_by_side.bytes_at_rest(experiment, models) + side_by_side.bytes_at_work(experiment, models)),
    }


def _vision_flop(models: Models) -> int:
    """FLOP of encoding and decoding one frame."""
    frame = jax.ShapeDtypeStruct((1, *FRAME_SHAPE), jnp.uint8)
    params = jax.eval_shape(models.vision.init, jax.random.key(0))

    def both(params: Any, frames: Any) -> Any:
        return models.vision.decode(params, models.vision.encode(params, frames).mean)

    cost = jax.jit(both).lower(params, frame).cost_analysis() or {}
    return int(cost.get("flops", 0))


def _work(experiment: Experiment, models: Models, frames: int, parameters: dict[str, int]) -> dict[str, int]:
    vision, memory, evolve, rounds = experiment.vision, experiment.memory, experiment.evolve, experiment.rounds
    image, step = _vision_flop(models), 2 * parameters["memory"]
    later = rounds.count - 1
    steps = memory.steps + later * rounds.memory_steps
    # In the actual environment every frame is encoded too, which is about half of what a frame takes through all of V.
    seen = step + image // 2
    evaluation = evolve.actual_episodes * models.task.max_steps * seen
    if evolve.fitness == "dream":
        rollout = experiment.dream.horizon * step
        evaluation += evolve.evaluation_rollouts * rollout
    else:
        rollout = (evolve.max_steps or models.task.max_steps) * seen
    generation = evolve.population * evolve.rollouts * rollout
    if evolve.search == "policy_gradient":
        generation = experiment.gradient.dreams * experiment.gradient.decisions * experiment.gradient.hold * step
    # In each round the generations, and the means' evaluations.
    counts = [evolve.generations, *later * [rounds.generations or evolve.generations]]
    evaluations = sum(math.ceil(count / evolve.evaluate_every) for count in counts)
    tune, whole = experiment.tune, models.task.max_steps
    validations = math.ceil(tune.generations / tune.evaluate_every) * tune.actual_episodes * whole
    tuning = tune.generations * tune.population * tune.rollouts * (tune.max_steps or whole) + validations
    return {
        "one frame through V": image,
        "one step of M (a dream step)": step,
        "V's training": 3 * image * vision.batch_size * (vision.steps + later * rounds.vision_steps),
        "encoding": experiment.views * frames * image // 2,
        "M's training": 3 * step * memory.batch_size * memory.sequence_length * steps,
        "a generation at most": generation,
        "evolution at most": evolve.evolutions * (sum(counts) * generation + evaluations * evaluation),
        **({"tuning at most": tuning * seen} if tune.generations else {}),
    }  # fmt: skip


def table(facts: dict[str, Any]) -> str:
    """`describe`'s facts for a person."""
    units = {"parameters": ("", 1000), "disk": ("B", 1024), "memory": ("B", 1024), "work": ("FLOP", 1000)}
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
            lines.append(f"  {name:<34}{text}")
    return "\n".join(lines)


def _scaled(value: float, unit: str, base: int) -> str:
    prefixes = ("", "k", "M", "G", "T", "P", "E")
    power = min(int(np.log(max(value, 1)) / np.log(base)), len(prefixes) - 1)
    return f"{value / base**power:.3g} {prefixes[power]}{unit}"
