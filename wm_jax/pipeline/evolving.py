"""The stage that evolves C in the dream, and chooses which of the evaluated means is deployed."""

import math
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wm_jax.controller import Evolution
from wm_jax.data.weights import check_like, load_weights, save_weights
from wm_jax.dream import DreamFitness, population_returns
from wm_jax.errors import UserError
from wm_jax.pipeline.context import Context
from wm_jax.pipeline.loop import Work, run_loop
from wm_jax.pipeline.training import WEIGHTS, load_memory, load_round_latents, load_vision
from wm_jax.rollouts.acting import Lanes
from wm_jax.rollouts.agent import Agent, AgentDriver, AgentParams
from wm_jax.rollouts.config import VALIDATION_SEED
from wm_jax.rollouts.evaluate import summary
from wm_jax.run import StageDir, write_json
from wm_jax.types import Latents, Params, Weights

EVALUATIONS = "evaluations.json"
GENERATIONS_IN_CALL = 5
"""At most this many generations run between two moments at which the loop can log, save or stop."""

Validate = Callable[[Weights], list[float]]
"""A controller's returns in the validation episodes of the actual environment."""


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


def evolve(context: Context, round_number: int, stage: StageDir) -> dict[str, Any]:
    """Evolve C in the dream; write every evaluated mean, and the one that is deployed."""
    config, models = context.experiment.evolve, context.models
    latents, params = load_round_latents(context, round_number), load_memory(context, round_number)
    models.dream.check(latents)
    evolution = Evolution(config, models.controller.size)
    slots = math.ceil(config.generations / config.evaluate_every)
    state = {
        "evolution": evolution.init(context.key("evolution", round_number)),
        "means": jnp.zeros((slots, models.controller.size)),
        "dream": jnp.zeros((slots, config.evaluation_rollouts)),
    }
    if config.actual_episodes:
        state["actual"] = jnp.zeros((slots, config.actual_episodes))
    in_call = math.gcd(config.generations, config.evaluate_every, GENERATIONS_IN_CALL)
    with ExitStack() as stack:
        validate = _validation(context, round_number, stack) if config.actual_episodes else None
        advance = _Advance(context, round_number, evolution, params, latents, in_call, validate)
        work = Work(
            title=f"C, round {round_number}", unit="generations", units=1, steps=config.generations,
            stride=in_call, advance_from=lambda start: advance, watch="mean", average=1,
            evaluate_every=config.evaluate_every, evaluate=lambda state, done: advance.report,
            result=lambda state: (state["means"], state["evolution"].mean, state["evolution"].C),
            remedy="look at M's held-out report: a dream whose rewards are not finite comes from M",
        )  # fmt: skip
        state = run_loop(stage, work, state, context.screen, context.interrupt, context.experiment.checkpoint_seconds)
    return _deploy(context, stage, jax.device_get(state))


class _Advance:
    """Some generations in one compiled call; where due, the mean's evaluation in the dream and the actual environment."""

    def __init__(
        self, context: Context, round_number: int, evolution: Evolution, params: Params,
        latents: Latents, in_call: int, validate: Validate | None,
    ):  # fmt: skip
        models, self.config = context.models, context.experiment.evolve
        self.evolution, self.in_call, self.validate = evolution, in_call, validate
        self.report: dict[str, float] = {}
        """The last evaluation of the mean."""
        self.key = context.key("generations", round_number)
        self.evaluation_key = context.key("evaluation of means", round_number)
        fitness = DreamFitness(models.dream, models.controller, self.config.rollouts)
        self.fitness = jax.tree_util.Partial(fitness, params, latents)
        self.dreams = partial(
            population_returns, models.dream, models.controller, params, latents,
            rollouts=self.config.evaluation_rollouts,
        )  # fmt: skip

    def __call__(self, state: Any) -> tuple[Any, dict[str, Any]]:
        begun = int(state["evolution"].generation_counter)
        evolved, metrics = self.evolution.generations(state["evolution"], self.fitness, self.key, self.in_call)
        done = begun + self.in_call
        state = {**state, "evolution": evolved}
        if done % self.config.evaluate_every == 0 or done == self.config.generations:
            state = self._evaluate(state, done, math.ceil(done / self.config.evaluate_every) - 1)
        return state, metrics

    def _evaluate(self, state: Any, generation: int, slot: int) -> Any:
        mean = self.evolution.mean(state["evolution"])
        dream = self.dreams(mean[None], jax.random.fold_in(self.evaluation_key, generation)).returns[0]
        results = {"means": mean, "dream": dream}
        if self.validate is not None:
            results["actual"] = jnp.asarray(self.validate(mean), jnp.float32)
        self.report = {f"mean_{place}": float(results[place].mean()) for place in results if place != "means"}
        if not all(map(math.isfinite, self.report.values())):
            raise UserError(f"the mean of generation {generation} has a score that is not finite ({self.report}); "
                            "look at M's held-out report: it comes from M")  # fmt: skip
        return {**state, **{name: state[name].at[slot].set(result) for name, result in results.items()}}


def _validation(context: Context, round_number: int, stack: ExitStack) -> Validate:
    """Plays the validation episodes, the same for every mean, on seeds that no score ever uses."""
    episodes = context.experiment.evolve.actual_episodes
    agent, params = load_agent(context, round_number)
    count = min(context.experiment.evaluate.environments, episodes)
    lanes = stack.enter_context(Lanes(context.experiment.task, count, context.screen.warn))

    def validate(weights: Weights) -> list[float]:
        driver = AgentDriver(agent, params, np.asarray(weights)[None])
        played = lanes.play(driver, [(VALIDATION_SEED + i, 0) for i in range(episodes)])
        return [sum(episode.rewards) for episode in played]

    return validate


def _deploy(context: Context, stage: StageDir, state: Any) -> dict[str, Any]:
    """Write all evaluated means and the chosen one. Returns what the choice was made by."""
    config = context.experiment.evolve
    evaluations = [
        {
            "generation": min((slot + 1) * config.evaluate_every, config.generations),
            "dream": summary(state["dream"][slot].tolist()),
            "actual": summary(state["actual"][slot].tolist()) if config.actual_episodes else None,
        }
        for slot in range(len(state["means"]))
    ]
    best = int(np.argmax(state[config.select].mean(axis=1)))
    chosen = {"selected_by": config.select, "parameters": context.models.controller.size, **evaluations[best]}
    write_json(stage.path / EVALUATIONS, evaluations)
    save_weights(stage.path / "means.safetensors", {"means": state["means"]}, {"evaluations": evaluations})
    save_weights(stage.path / WEIGHTS, {"weights": state["means"][best]}, chosen)
    return chosen
