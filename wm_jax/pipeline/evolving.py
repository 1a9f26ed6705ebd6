"""The stages that evolve C, one evolution or many side by side, and choose which of the evaluated means is deployed; the
second goes on, in the actual environment, from what the first has made in dreams."""

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wm_jax import parallel
from wm_jax.controller import Evolution, EvolveConfig
from wm_jax.data.files import write_json
from wm_jax.data.weights import check_like, load_weights, save_weights
from wm_jax.pipeline import playing, side_by_side
from wm_jax.pipeline.context import Context
from wm_jax.pipeline.loop import Work, run_loop
from wm_jax.pipeline.progress import Bar
from wm_jax.pipeline.training import WEIGHTS, load_memory, load_round_latents, load_vision
from wm_jax.rollouts.agent import Agent, AgentParams
from wm_jax.rollouts.evaluate import summary
from wm_jax.run import StageDir
from wm_jax.types import Array, Key, Weights

EVALUATIONS = "evaluations.json"
CONTROLLERS = "controllers.safetensors"
MEANS = "means.safetensors"
RESULTS = (WEIGHTS, CONTROLLERS, EVALUATIONS, MEANS)

Generations = side_by_side.Evolutions | side_by_side.Gradients | playing.Generations

Score = tuple[int, Callable[[Weights, int], Array | np.ndarray]]
"""n, and what plays the means [E, D] of a generation: their returns [E, n]."""


@dataclass(frozen=True)
class Search:
    """One search for C, or several side by side."""

    context: Context
    round_number: int
    config: EvolveConfig
    variants: list[side_by_side.Variant]
    begin: Weights | None = None
    """[D]: where it goes on from the dreams; None is 0."""

    @property
    def title(self) -> str:
        """What the screen calls it."""
        return f"C{'' if self.begin is None else ', tuned'}, round {self.round_number}"

    def key(self, purpose: str) -> Key:
        """The random key of a purpose."""
        return jax.random.key(self.seed(purpose))

    def seed(self, purpose: str) -> int:
        """The seed of a purpose, another one for what goes on than for what began."""
        return self.context.seed(purpose if self.begin is None else f"tuning, {purpose}", self.round_number)


def load_controller(context: Context, round_number: int) -> tuple[np.ndarray, dict[str, Any]]:
    """The deployed weights [D] of a round, and how they were chosen."""
    return _load_deployed(context, context.controller(round_number))


def _load_deployed(context: Context, stage: StageDir) -> tuple[np.ndarray, dict[str, Any]]:
    path = stage.path / WEIGHTS
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
    path = context.controller(round_number).path / CONTROLLERS
    tree, about = load_weights(path)
    shape = (len(about["evolutions"]), context.models.controller.size)
    return check_like(path, tree, {"weights": jax.ShapeDtypeStruct(shape, jnp.float32)})["weights"], about["evolutions"]


def load_means(context: Context, round_number: int) -> np.ndarray:
    """All means [M, D] that a round's evolutions evaluated, in the order of its `EVALUATIONS`."""
    path = context.stage("controller", round_number).path / MEANS
    config, size = context.evolve(round_number), context.models.controller.size
    shape = (math.ceil(config.generations / config.evaluate_every), config.evolutions, size)
    like = {"means": jax.ShapeDtypeStruct(shape, jnp.float32)}
    return check_like(path, load_weights(path)[0], like)["means"].reshape(-1, size)


def evolve(context: Context, round_number: int, stage: StageDir) -> dict[str, Any]:
    """Evolve C in the dream or the actual environment; write every evaluated mean, each evolution's best, and the one that
    is deployed."""
    variants = side_by_side.variants(context.experiment)
    return _run(Search(context, round_number, context.evolve(round_number), variants), stage)


def tune(context: Context, round_number: int, stage: StageDir) -> dict[str, Any]:
    """Go on, in the actual environment, from the controller that the round's dreams made; write what `evolve` does."""
    begin, about = _load_deployed(context, context.stage("controller", round_number))
    variants = [side_by_side.Variant(about["temperature"], about["seed"])]
    return _run(Search(context, round_number, context.experiment.tune.search, variants, jnp.asarray(begin)), stage)


def _run(search: Search, stage: StageDir) -> dict[str, Any]:
    context, config = search.context, search.config
    agent, params = load_agent(context, search.round_number)
    arena = playing.Arena(context, stage, agent, params)
    with ExitStack() as stack:
        scores: dict[str, Score] = {}
        if config.fitness == "dream":
            latents = load_round_latents(context, search.round_number)
            dreams = side_by_side.Gradients if config.search == "policy_gradient" else side_by_side.Evolutions
            generations = dreams(context, search.round_number, params.memory, latents)
            begin: Any = generations.begin
            scores["dream"] = (config.evaluation_rollouts, generations.returns)
        else:
            evolution, begin = Evolution(config, context.models.controller.size), search.begin
            generations = playing.Generations(
                context, evolution, search.variants, search.key("generations"), search.seed("evolution episodes"), arena,
                stack,
            )  # fmt: skip
        if config.actual_episodes:
            scores["actual"] = (config.actual_episodes, playing.Validation(context, config, arena, stack))
        advance = _Advance(search, generations, scores, begin)
        # A generation of the actual environment may take longer than all that a kill may cost.
        seconds = context.experiment.checkpoint_seconds if config.fitness == "dream" else 0
        work = _work(search, advance, arena.attach)
        state = run_loop(stage, work, advance.initial_state(), context.screen, context.interrupt, seconds)
    found = jax.device_get(parallel.local(state))
    return parallel.on_main(lambda: _deploy(search, stage, found))


def _work(search: Search, advance: "_Advance", attach: Callable[[Bar], None]) -> Work:
    config = search.config
    dream = config.fitness == "dream"
    return Work(
        title=search.title, unit="generations" if dream else "episodes",
        units=1 if dream else config.evolutions * config.population * config.rollouts, steps=config.generations,
        stride=advance.generations.in_call, advance_from=lambda start: advance, watch=advance.evolution.WATCH, average=1,
        evaluate_every=config.evaluate_every, evaluate=lambda state, done: advance.report,
        result=lambda state: (state["means"], advance.evolution.vital(state["evolution"])),
        remedy="look at M's held-out report: a dream whose rewards are not finite comes from M" if dream else
               "look at the task's rewards", attach=attach,
    )  # fmt: skip


class _Advance:
    """Some generations; where due, the means' scores in the dream and the actual environment."""

    def __init__(self, search: Search, generations: Generations, scores: dict[str, Score], begin: Any):
        """`begin`: what each search begins with beside its key."""
        self.config, self.begin, self.mesh = search.config, begin, search.context.mesh
        self.evolution, self.generations, self.scores = generations.evolution, generations, scores
        self.begin_keys = side_by_side.keys(search.key("evolution"), search.variants)
        self.report: dict[str, Any] = {}
        """The last evaluation of the means."""

    def initial_state(self) -> dict[str, Any]:
        """Before the first generation: the searches, and room for what every evaluation finds."""
        slots, count = math.ceil(self.config.generations / self.config.evaluate_every), len(self.begin_keys)
        state = {
            "evolution": jax.vmap(lambda key: self.evolution.init(key, self.begin))(self.begin_keys),
            "means": jnp.zeros((slots, count, self.evolution.size)),
            **{place: jnp.zeros((slots, count, episodes)) for place, (episodes, _) in self.scores.items()},
        }
        return parallel.replicate(self.mesh, state)

    def __call__(self, state: Any) -> tuple[Any, dict[str, Any]]:
        first = int(state["evolution"].generation_counter[0])
        done = first + self.generations.in_call
        searches, metrics = self.generations(state["evolution"], first)
        state = {**state, "evolution": searches}
        if done % self.config.evaluate_every == 0 or done == self.config.generations:
            state = self._evaluate(state, done, math.ceil(done / self.config.evaluate_every) - 1)
        # One evolution's metrics are plain numbers in the log, those of many are lists.
        return state, {name: values[0] if len(values) == 1 else values.T for name, values in metrics.items()}

    def _evaluate(self, state: Any, generation: int, slot: int) -> Any:
        means = self.evolution.mean(state["evolution"])
        results = {place: score(means, generation) for place, (_, score) in self.scores.items()}
        self.report = {f"mean_{place}": _numbers(returns.mean(axis=1)) for place, returns in results.items()}
        if not all(np.isfinite(values).all() for values in self.report.values()):
            raise parallel.SharedError(
                f"a mean of generation {generation} has a score that is not finite ({self.report}); of the dream's look at "
                "M's held-out report, of the actual one's at the task's rewards"
            )
        found = {"means": means, **parallel.replicate(self.mesh, results)}
        return {**state, **{name: state[name].at[slot].set(result) for name, result in found.items()}}


def _numbers(values: Array) -> float | list[float]:
    """Of each evolution, as the log has them."""
    numbers = np.asarray(values).tolist()
    return numbers[0] if len(numbers) == 1 else numbers


def _deploy(search: Search, stage: StageDir, state: dict[str, Any]) -> dict[str, Any]:
    """Write all evaluated means, each evolution's best and the one to deploy. Returns what that choice was made by."""
    context, config, variants = search.context, search.config, search.variants
    evaluations = [
        [
            {
                "evolution": number,
                **asdict(variant),
                "generation": min((slot + 1) * config.evaluate_every, config.generations),
                **{p: summary(state[p][slot, number].tolist()) if p in state else None for p in ("dream", "actual")},
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
        best[[variant.temperature != context.experiment.dream.temperature for variant in variants]] = -np.inf
    chosen = int(best.argmax())
    about = {"selected_by": config.select, "parameters": context.models.controller.size, **ends[chosen]}
    controllers = state["means"][slots, np.arange(len(variants))]
    write_json(stage.path / EVALUATIONS, [evaluation for at_once in evaluations for evaluation in at_once])
    save_weights(stage.path / MEANS, {"means": state["means"]}, {"evaluations": evaluations})
    save_weights(stage.path / CONTROLLERS, {"weights": controllers}, {"evolutions": ends})
    save_weights(stage.path / WEIGHTS, {"weights": controllers[chosen]}, about)
    return about
