"""The stage that evolves C in the dream, one evolution or many side by side, and chooses which of the evaluated means is
deployed."""

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wm_jax import parallel
from wm_jax.controller import Evolution
from wm_jax.data.weights import check_like, load_weights, save_weights
from wm_jax.dream import DreamFitness
from wm_jax.pipeline import machine, side_by_side
from wm_jax.pipeline.context import Context
from wm_jax.pipeline.loop import Work, run_loop
from wm_jax.pipeline.training import WEIGHTS, load_memory, load_round_latents, load_vision
from wm_jax.rollouts.acting import Lanes
from wm_jax.rollouts.agent import Agent, AgentDriver, AgentParams
from wm_jax.rollouts.config import VALIDATION_SEED
from wm_jax.rollouts.evaluate import summary
from wm_jax.run import StageDir, write_json
from wm_jax.types import Array, Latents, Params, Weights

EVALUATIONS = "evaluations.json"
CONTROLLERS = "controllers.safetensors"
GENERATIONS_IN_CALL = 5
"""At most this many generations run between two moments at which the loop can log, save or stop."""

Validate = Callable[[Weights], Array]
"""The returns [E, episodes] of controllers [E, D] in the validation episodes of the actual environment."""


def load_controller(context: Context, round_number: int) -> tuple[np.ndarray, dict[str, Any]]:
    """The deployed weights [D] of a round, and how they were chosen."""
    path = context.stage("controller", round_number).path / WEIGHTS
    tree, about = load_weights(path)
    like = {"weights": jax.ShapeDtypeStruct((context.models.controller.size,), jnp.float32)}
    return check_like(path, tree, like)["weights"], about


def load_agent(context: Context, round_number: int) -> tuple[Agent, AgentParams]:
    """V, M and C of a round; C's weights are given to the driver."""
    models = context.models
    params = AgentParams(vision=load_vision(context, round_number), memory=load_memory(context, round_number))
    return Agent(models.vision, models.memory, models.controller), params


def load_controllers(context: Context, round_number: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """The controllers [E, D] that a round's evolutions ended with, and of each its temperature, its seed and how it was
    chosen."""
    path = context.stage("controller", round_number).path / CONTROLLERS
    tree, about = load_weights(path)
    shape = (context.experiment.evolve.evolutions, context.models.controller.size)
    return check_like(path, tree, {"weights": jax.ShapeDtypeStruct(shape, jnp.float32)})["weights"], about["evolutions"]


def evolve(context: Context, round_number: int, stage: StageDir) -> dict[str, Any]:
    """Evolve C in the dream; write every evaluated mean, each evolution's best, and the one that is deployed."""
    config, models = context.experiment.evolve, context.models
    latents, params = load_round_latents(context, round_number), load_memory(context, round_number)
    models.dream.check(latents)
    in_call = math.gcd(config.generations, config.evaluate_every, GENERATIONS_IN_CALL)
    with ExitStack() as stack:
        validate = _validation(context, round_number, stack) if config.actual_episodes else None
        advance = _Advance(context, round_number, params, latents, in_call, validate)
        work = Work(
            title=f"C, round {round_number}", unit="generations", units=1, steps=config.generations,
            stride=in_call, advance_from=lambda start: advance, watch="mean", average=1,
            evaluate_every=config.evaluate_every, evaluate=lambda state, done: advance.report,
            result=lambda state: (state["means"], state["evolution"].mean, state["evolution"].C),
            remedy="look at M's held-out report: a dream whose rewards are not finite comes from M",
        )  # fmt: skip
        state = advance.initial_state()
        state = run_loop(stage, work, state, context.screen, context.interrupt, context.experiment.checkpoint_seconds)
    found = jax.device_get(parallel.local(state))
    return parallel.on_main(lambda: _deploy(context, stage, advance.variants, found))


class _Advance:
    """Some generations in one compiled call; where due, the means' evaluation in the dream and the actual environment."""

    def __init__(
        self, context: Context, round_number: int, params: Params, latents: Latents, in_call: int,
        validate: Validate | None,
    ):  # fmt: skip
        models, self.config = context.models, context.experiment.evolve
        self.params, self.latents = parallel.replicate(context.mesh, (params, latents))
        self.mesh, self.in_call, self.validate = context.mesh, in_call, validate
        self.evolution = Evolution(self.config, models.controller.size)
        self.fitness = DreamFitness(models.dream, models.controller, self.config.rollouts, self.mesh)
        self.variants = side_by_side.variants(context.experiment)
        self.begin_keys, *rest = (
            side_by_side.keys(context.key(purpose, round_number), self.variants)
            for purpose in ("evolution", "generations", "evaluation of means")
        )
        temperatures = jnp.array([variant.temperature for variant in self.variants])
        self.temperatures, self.keys, self.evaluation_keys = parallel.replicate(self.mesh, (temperatures, *rest))
        self.groups = _groups(context, len(self.variants))
        self.report: dict[str, Any] = {}
        """The last evaluation of the means."""

    def initial_state(self) -> dict[str, Any]:
        """Before the first generation: the searches, and room for what every evaluation finds."""
        slots, count = math.ceil(self.config.generations / self.config.evaluate_every), len(self.variants)
        state = {
            "evolution": jax.vmap(self.evolution.init)(self.begin_keys),
            "means": jnp.zeros((slots, count, self.evolution.size)),
            "dream": jnp.zeros((slots, count, self.config.evaluation_rollouts)),
        }
        if self.validate is not None:
            state["actual"] = jnp.zeros((slots, count, self.config.actual_episodes))
        return parallel.replicate(self.mesh, state)

    def __call__(self, state: Any) -> tuple[Any, dict[str, Any]]:
        first = int(state["evolution"].generation_counter[0])
        done = first + self.in_call
        evolved = [self._generations(state["evolution"], first, group) for group in self.groups]
        searches, metrics = jax.tree.map(lambda *parts: jnp.concatenate(parts), *evolved)
        state = {**state, "evolution": searches}
        if done % self.config.evaluate_every == 0 or done == self.config.generations:
            state = self._evaluate(state, done, math.ceil(done / self.config.evaluate_every) - 1)
        # One evolution's metrics are plain numbers in the log, those of many are lists.
        return state, {name: values[0] if len(values) == 1 else values.T for name, values in metrics.items()}

    def _generations(self, searches: Any, first: int, group: slice) -> tuple[Any, dict[str, Array]]:
        return side_by_side.generations(
            self.evolution, self.fitness, jax.tree.map(lambda array: array[group], searches), first, self.params,
            self.latents, self.temperatures[group], self.keys[group], self.in_call,
        )  # fmt: skip

    def _evaluate(self, state: Any, generation: int, slot: int) -> Any:
        means = self.evolution.mean(state["evolution"])
        dreams = [
            side_by_side.returns_of(
                self.fitness, self.params, self.latents, means[group], self.temperatures[group],
                self.evaluation_keys[group], generation, self.config.evaluation_rollouts,
            )
            for group in self.groups
        ]  # fmt: skip
        results = {"means": means, "dream": jnp.concatenate(dreams)}
        if self.validate is not None:
            results["actual"] = parallel.replicate(self.mesh, self.validate(means))
        self.report = {f"mean_{place}": _numbers(results[place].mean(axis=1)) for place in results if place != "means"}
        if not all(np.isfinite(values).all() for values in self.report.values()):
            raise parallel.SharedError(
                f"a mean of generation {generation} has a score that is not finite ({self.report}); of the dream's look at "
                "M's held-out report, of the actual one's at the task's rewards"
            )
        return {**state, **{name: state[name].at[slot].set(result) for name, result in results.items()}}


def _numbers(values: Array) -> float | list[float]:
    """Of each evolution, as the log has them."""
    numbers = np.asarray(values).tolist()
    return numbers[0] if len(numbers) == 1 else numbers


def _groups(context: Context, count: int) -> list[slice]:
    """The evolutions that fit in memory at a time; says so where there are many."""
    rest = side_by_side.bytes_at_rest(context.models)
    work = side_by_side.bytes_at_work(context.experiment, context.models, context.mesh.size)
    memory = parallel.on_main(machine.memory)
    groups = side_by_side.groups(count, rest, work, memory)
    if count > 1:
        size = groups[0].stop
        context.screen.say(
            f"  {count} evolutions, {size} side by side, in about {(count * rest + size * work) / 2**20:,.0f} MiB of a "
            f"device's {memory / 2**20:,.0f}" + (f", {len(groups)} such groups in turn" if len(groups) > 1 else "")
        )
    return groups


def _validation(context: Context, round_number: int, stack: ExitStack) -> Validate:
    """Plays the validation episodes, the same for every mean, on seeds that no score ever uses; the processes share them
    out."""
    episodes = context.experiment.evolve.actual_episodes
    agent, params = load_agent(context, round_number)
    share = math.ceil(episodes * context.experiment.evolve.evolutions / jax.process_count())
    count = min(context.experiment.evaluate.environments, share)
    lanes = stack.enter_context(Lanes(context.experiment.task, count, context.screen.warn))

    def validate(weights: Weights) -> Array:
        driver = AgentDriver(agent, params, np.asarray(weights))
        wanted = [(VALIDATION_SEED + i, row) for row in range(len(weights)) for i in range(episodes)]
        returns = parallel.join([sum(episode.rewards) for episode in lanes.play(driver, parallel.share(wanted))])
        return jnp.asarray(returns, jnp.float32).reshape(len(weights), episodes)

    return validate


def _deploy(
    context: Context, stage: StageDir, variants: list[side_by_side.Variant], state: dict[str, Any]
) -> dict[str, Any]:
    """Write all evaluated means, each evolution's best and the one to deploy. Returns what that choice was made by."""
    config, dream = context.experiment.evolve, context.experiment.dream
    evaluations = [
        [
            {
                "evolution": number,
                **asdict(variant),
                "generation": min((slot + 1) * config.evaluate_every, config.generations),
                "dream": summary(state["dream"][slot, number].tolist()),
                "actual": summary(state["actual"][slot, number].tolist()) if config.actual_episodes else None,
            }
            for number, variant in enumerate(variants)
        ]
        for slot in range(len(state["means"]))
    ]
    scores = state[config.select].mean(axis=2)
    slots = scores.argmax(axis=0)
    ends = [evaluations[slot][number] for number, slot in enumerate(slots)]
    best = scores.max(axis=0)
    if config.select == "dream":
        # A dream's score says nothing against one at another temperature: the lowest is the easiest to cheat.
        best[[variant.temperature != dream.temperature for variant in variants]] = -np.inf
    chosen = int(best.argmax())
    about = {"selected_by": config.select, "parameters": context.models.controller.size, **ends[chosen]}
    controllers = state["means"][slots, np.arange(len(variants))]
    write_json(stage.path / EVALUATIONS, [evaluation for at_once in evaluations for evaluation in at_once])
    save_weights(stage.path / "means.safetensors", {"means": state["means"]}, {"evaluations": evaluations})
    save_weights(stage.path / CONTROLLERS, {"weights": controllers}, {"evolutions": ends})
    save_weights(stage.path / WEIGHTS, {"weights": controllers[chosen]}, about)
    return about
