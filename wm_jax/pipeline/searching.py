"""The stages that search for C, with one search or several side by side, and choose the candidate to deploy. `evolve`
searches from scratch; `tune` continues in the actual environment from the controller found in dreams."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wm_jax import parallel
from wm_jax.actors import protocol as actors
from wm_jax.data.files import write_json
from wm_jax.data.weights import save_weights
from wm_jax.errors import UserError
from wm_jax.lanes import many
from wm_jax.models import Models
from wm_jax.pipeline import episode_learning, playing, side_by_side
from wm_jax.pipeline.context import Context
from wm_jax.pipeline.loop import Work, run_loop
from wm_jax.pipeline.progress import Bar
from wm_jax.pipeline.stages import Stage
from wm_jax.pipeline.weights import CANDIDATES, CONTROLLERS, WEIGHTS, load_deployed, load_observations, load_world
from wm_jax.rollouts.agent import Agent
from wm_jax.rollouts.evaluate import summary
from wm_jax.run import StageDir
from wm_jax.search import EpisodeSearch, PopulationSearch, Search
from wm_jax.search.config import EvolveConfig
from wm_jax.types import Array, Key, Params

EVALUATIONS = "evaluations.json"
TUNING = "tuning"
"""The purpose of a search that starts from C."""
RESULTS = [WEIGHTS, CONTROLLERS, EVALUATIONS, CANDIDATES]

Generations = side_by_side.DreamGenerations | playing.PlayedGenerations | episode_learning.LearnedGenerations
Score = tuple[int, Callable[[Params, int], Array | np.ndarray]]
"""n, and a function that plays the candidates [E, ...] of a generation and gives their returns [E, n]."""


@dataclass(frozen=True)
class Evolve(Stage):
    """Searches for C in the dream or the actual environment. Writes every evaluated candidate, each search's best, and
    the deployed one."""

    name = "evolve"
    folder = "controller"

    def depends(self, later: bool) -> tuple[str, ...]:
        """All settings of a search. The number of lanes is included: it changes the last bits of C's actions."""
        found = ("dream.", "actor.", "search.", "evolve.", "evaluate.environments")
        return (*found, "rounds.generations", "rounds.warm_start") if later else (*found, "initial_actor")

    def outputs(self, context: Context, round_number: int) -> list[str]:
        """The deployed controller, and the evaluated candidates."""
        return RESULTS

    def run(self, context: Context, round_number: int, stage: StageDir) -> dict[str, Any]:
        """Search, then choose the controller to deploy."""
        variants = side_by_side.variants(context.experiment)
        begin = None if round_number else context.initial_actor
        if round_number and context.experiment.rounds.warm_start:
            begin = load_deployed(context, context.stage(self.folder, round_number - 1))[0]
        return _run(_SearchJob(context, round_number, context.evolve(round_number), variants, begin), stage)


@dataclass(frozen=True)
class Tune(Stage):
    """Continues the search in the actual environment, from the controller found in the last round's dreams. Writes
    the same files as `Evolve`."""

    name = "tune"
    folder = "tuned"

    def due(self, round_number: int, last: int) -> bool:
        """In the last round."""
        return round_number == last

    def depends(self, later: bool) -> tuple[str, ...]:
        """Its own settings."""
        return "tune.", "evaluate.environments"

    def outputs(self, context: Context, round_number: int) -> list[str]:
        """The deployed controller, and the evaluated candidates."""
        return RESULTS

    def run(self, context: Context, round_number: int, stage: StageDir) -> dict[str, Any]:
        """Continue the search, then choose the controller to deploy."""
        begin, about = load_deployed(context, context.stage(Evolve.folder, round_number))
        variants = [side_by_side.Variant(about["temperature"], about["seed"])]
        config = context.experiment.tune.as_evolution
        return _run(_SearchJob(context, round_number, config, variants, begin, TUNING), stage)


@dataclass(frozen=True)
class Explore(Stage):
    """Searches in the dream for the explorer's own controller, if it has one. Writes the same files as `Evolve`."""

    name = "explore"
    folder = "explorer"

    def due(self, round_number: int, last: int) -> bool:
        """In every round that is followed by another collection."""
        return round_number < last

    def depends(self, later: bool) -> tuple[str, ...]:
        """The settings of the explorer's reward and search."""
        return ("explorer.",)

    def outputs(self, context: Context, round_number: int) -> list[str]:
        """The controller that collects, and the evaluated candidates."""
        return RESULTS

    def run(self, context: Context, round_number: int, stage: StageDir) -> dict[str, Any]:
        """Search, then choose the controller."""
        exploring = context.exploring
        variants = side_by_side.variants(exploring.experiment)
        task = _SearchJob(exploring, round_number, exploring.evolve(round_number), variants, purpose="exploring")
        return _run(task, stage)


@dataclass(frozen=True)
class _SearchJob:
    """One search for C, or several side by side."""

    context: Context
    round_number: int
    config: EvolveConfig
    variants: list[side_by_side.Variant]
    begin: Params | None = None
    """The controller that the search starts from; None: from scratch."""
    purpose: str = ""
    """Purpose of an additional search; empty for the search that makes C."""

    @property
    def evaluated(self) -> list[int]:
        """Generations whose candidate is evaluated. Generation 0 is the controller that the search starts from."""
        return [0, *self.config.evaluated] if self.keeps_begin else self.config.evaluated

    @property
    def keeps_begin(self) -> bool:
        """Whether the controller that it starts from is evaluated, as generation 0, and stays deployed if the search only
        makes it worse. The C of an earlier round is not: it was found in another dream."""
        return self.begin is not None and (self.tunes or self.round_number == 0)

    @property
    def tunes(self) -> bool:
        """Whether it tunes C in the actual environment after the dreams."""
        return self.purpose == TUNING

    @property
    def remedy(self) -> str:
        """What a user can do if returns are not finite."""
        if self.config.fitness == "dream":
            return "check the held-out reports: numbers in a dream that are not finite come from the world model"
        return "check the task's rewards"

    @property
    def title(self) -> str:
        """Its name on the screen."""
        return f"C{', ' if self.purpose else ''}{self.purpose}, round {self.round_number}"

    def key(self, purpose: str) -> Key:
        """The random key of a purpose."""
        return jax.random.key(self.seed(purpose))

    def seed(self, purpose: str) -> int:
        """The seed of a purpose; each search of a round has its own."""
        return self.context.seed(f"{self.purpose}, {purpose}" if self.purpose else purpose, self.round_number)


def actual_search(models: Models, config: EvolveConfig, tunes: bool) -> PopulationSearch | EpisodeSearch:
    """The search whose candidates play in the actual environment. Raises `UserError` if it can only learn in dreams."""
    chosen = models.experiment.tune.search if tunes else models.experiment.search
    search = chosen.build(models.actor, models.dream, config.generations)
    if not isinstance(search, PopulationSearch | EpisodeSearch):
        where, instead = (
            ("tune.search.kind", "tune.generations to 0") if tunes else ("search.kind", "evolve.fitness to 'dream'")
        )
        raise UserError(f"{where} is {chosen.kind!r}, which learns in dreams, but its candidates must play in the actual "
                        f"environment; set {instead}, or {where} to 'cma_es' or 'ppo'")  # fmt: skip
    if isinstance(search, EpisodeSearch):
        steps = config.max_steps or models.task.max_steps
        decisions = search.episodes * -(-steps // search.player.hold)
        if decisions < search.least_decisions:
            group = "tune.search" if tunes else "search"
            raise UserError(f"{group}.dreams is {search.episodes}: that many episodes of {steps} steps have {decisions} "
                            f"decisions, fewer than {group}.batches, {search.least_decisions}; raise {group}.dreams or "
                            f"lower {group}.batches")  # fmt: skip
    return search


def _run(task: _SearchJob, stage: StageDir) -> dict[str, Any]:
    context, config = task.context, task.config
    params = load_world(context, task.round_number)
    runner = playing.EpisodeRunner(context, stage, Agent(context.models.world, context.models.actor), params)
    with ExitStack() as stack:
        scores: dict[str, Score] = {}
        if config.fitness == "dream":
            generations = side_by_side.DreamGenerations(
                context, task.round_number, params, load_observations(context, task.round_number), runner.tell
            )
            scores["dream"] = (config.evaluation_rollouts, generations.returns)
        else:
            search = actual_search(context.models, config, task.tunes)
            asked = task.key("generations"), task.seed("evolution episodes"), runner, stack
            if isinstance(search, PopulationSearch):
                generations = playing.PlayedGenerations(context, config, search, task.variants, *asked)
            else:
                generations = episode_learning.LearnedGenerations(context, config, search, task.variants, *asked)
        if config.actual_episodes:
            scores["actual"] = (config.actual_episodes, playing.Validation(context, config, runner, stack))
        advance = _Advance(task, generations, scores)
        # A generation of the actual environment may take longer than the work that a kill may lose.
        seconds = context.experiment.checkpoint_seconds if config.fitness == "dream" else 0
        work = _work(task, advance, runner.attach)
        state = run_loop(stage, work, advance.initial_state(), context.screen, context.interrupt, seconds)
    found = jax.device_get(parallel.local(state))
    return parallel.on_main(lambda: _deploy(task, stage, found))


def _work(task: _SearchJob, advance: "_Advance", attach: Callable[[Bar], None]) -> Work:
    config, generations = task.config, advance.generations
    dream = config.fitness == "dream"
    return Work(
        title=task.title, unit="generations" if dream else "episodes", steps=config.generations,
        units=1 if isinstance(generations, side_by_side.DreamGenerations) else generations.episodes,
        stride=generations.in_call, advance_from=lambda start: advance, watch=advance.search.watch, average=1,
        evaluate_every=config.evaluate_every, evaluate=lambda state, done: advance.report,
        result=lambda state: (state["candidates"], advance.search.vital(state["search"])),
        remedy=task.remedy, attach=attach,
    )  # fmt: skip


class _Advance:
    """Runs some generations; when due, also scores the candidates in the dream and the actual environment."""

    def __init__(self, task: _SearchJob, generations: Generations, scores: dict[str, Score]):
        self.task, self.config, self.mesh = task, task.config, task.context.mesh
        self.generations, self.scores = generations, scores
        self.search: Search = generations.search
        self.report: dict[str, Any] = {}
        """The last evaluation of the candidates."""

    def initial_state(self) -> dict[str, Any]:
        """The state before the first generation: the searches, and space for the results of every evaluation."""
        begin_keys = side_by_side.keys(self.task.key("evolution"), self.task.variants)
        begin, starts = self.task.begin, self.generations.begin
        slots, count = len(self.task.evaluated), len(begin_keys)

        def room(leaf: jax.ShapeDtypeStruct) -> Array:
            return jnp.zeros((slots, count, *leaf.shape), leaf.dtype)

        state = {
            "done": jnp.int32(0),
            "search": jax.vmap(lambda key: self.search.init(key, begin, starts))(begin_keys),
            "candidates": jax.tree.map(room, actors.shapes(self.task.context.models.actor)),
            **{place: jnp.zeros((slots, count, episodes), jnp.float32) for place, (episodes, _) in self.scores.items()},
        }
        return parallel.replicate(self.mesh, state)

    def __call__(self, state: Any) -> tuple[Any, dict[str, Any]]:
        first, begin = int(state["done"]), self.task.begin
        done = first + self.generations.in_call
        if first == 0 and begin is not None and self.task.keeps_begin:
            state = self._evaluate(state, 0, parallel.replicate(self.mesh, many(begin, len(self.task.variants))))
        searches, metrics = self.generations(state["search"], first)
        state = {**state, "search": searches, "done": state["done"] + self.generations.in_call}
        if done in self.task.evaluated:
            state = self._evaluate(state, done, jax.vmap(self.search.candidate)(searches))
        # In the log, one search's metrics are plain numbers, those of several are lists.
        return state, {name: values[0] if len(values) == 1 else values.T for name, values in metrics.items()}

    def _evaluate(self, state: Any, generation: int, candidates: Params) -> Any:
        slot = self.task.evaluated.index(generation)
        results = {place: score(candidates, generation) for place, (_, score) in self.scores.items()}
        self.report = {f"mean_{place}": _numbers(returns.mean(axis=1)) for place, returns in results.items()}
        found = {"candidates": candidates, **parallel.replicate(self.mesh, results)}
        filled = {
            name: jax.tree.map(lambda room, new: room.at[slot].set(new), state[name], new)
            for name, new in found.items()
        }
        return {**state, **filled}


def _numbers(values: Array) -> float | list[float]:
    """A value for each search, as the log stores it."""
    numbers = np.asarray(values).tolist()
    return numbers[0] if len(numbers) == 1 else numbers


def _deploy(task: _SearchJob, stage: StageDir, state: dict[str, Any]) -> dict[str, Any]:
    """Write all evaluated candidates, each search's best, and the one to deploy. Returns the facts behind that choice.

    A score that is not finite ranks last. Raises `UserError` if none is finite.
    """
    context, config, variants = task.context, task.config, task.variants
    evaluations = [
        [
            {
                "evolution": number,
                **asdict(variant),
                "generation": generation,
                **{p: summary(state[p][slot, number].tolist()) if p in state else None for p in ("dream", "actual")},
            }
            for number, variant in enumerate(variants)
        ]
        for slot, generation in enumerate(task.evaluated)
    ]
    scores = state[config.select].mean(axis=2)
    scores[~np.isfinite(scores)] = -np.inf
    slots = scores.argmax(axis=0)
    ends = [evaluations[slot][number] for number, slot in enumerate(slots)]
    best = scores.max(axis=0)
    if config.select == "dream":
        # Dream scores at different temperatures are not comparable: the lowest is the easiest to cheat.
        best[[variant.temperature != context.experiment.dream.temperature for variant in variants]] = -np.inf
    chosen = int(best.argmax())
    if best[chosen] == -np.inf:
        raise UserError(f"{stage.name}: no evaluated candidate has a finite score (evolve.select is "
                        f"{config.select!r}), so none can be deployed; {task.remedy}")  # fmt: skip
    about = {"selected_by": config.select, "parameters": actors.size(context.models.actor), **ends[chosen]}
    controllers = jax.tree.map(lambda array: array[slots, np.arange(len(variants))], state["candidates"])
    deployed = jax.tree.map(lambda array: array[chosen], controllers)
    write_json(stage.path / EVALUATIONS, [evaluation for at_once in evaluations for evaluation in at_once])
    save_weights(stage.path / CANDIDATES, {"means": state["candidates"]}, {"evaluations": evaluations})
    save_weights(stage.path / CONTROLLERS, {"weights": controllers}, {"evolutions": ends})
    save_weights(stage.path / WEIGHTS, {"weights": deployed}, about)
    return about
