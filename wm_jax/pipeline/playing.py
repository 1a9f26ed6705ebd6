"""C in the actual environment during a search: generations that play there, and validation of candidates."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import jax
import numpy as np

from wm_jax import parallel
from wm_jax.data.files import read_json, write_json
from wm_jax.lanes import rows
from wm_jax.pipeline import side_by_side
from wm_jax.pipeline.context import Context
from wm_jax.pipeline.progress import Bar, Barrier, Stopped, expected_steps
from wm_jax.rollouts.acting import Lanes
from wm_jax.rollouts.agent import Agent, AgentDriver
from wm_jax.rollouts.config import VALIDATION_SEED, evolution_seeds
from wm_jax.rollouts.evaluate import RETURN, Outcome, outcomes
from wm_jax.rollouts.limits import Limits
from wm_jax.run import StageDir
from wm_jax.search import PopulationSearch
from wm_jax.search.config import EvolveConfig
from wm_jax.types import Array, Key, Params, Population


class EpisodeRunner:
    """Plays episodes with controllers. The processes split the episodes; each finished block survives a kill."""

    def __init__(self, context: Context, stage: StageDir, agent: Agent, params: Params):
        self.context, self.stage, self.agent, self.params = context, stage, agent, params
        self.bar: Bar | None = None

    def attach(self, bar: Bar) -> None:
        """Show progress on this bar."""
        self.bar = bar

    def tell(self, words: str) -> None:
        """Show a message on the bar. All processes call it. Raises `Stopped` if one of them was asked to stop."""
        if self.bar is not None:
            self.bar.update(self.bar.done, words)
        if self.context.interrupt.agreed():
            raise Stopped(f"stopped in {self.stage.name} after {words}; the same command starts these dreams again")

    def returns(
        self,
        name: str,
        generation: int,
        lanes: Lanes,
        controllers: Params,
        episodes: Sequence[tuple[int, int]],
        show: Callable[[Bar, float, str], None],
    ) -> np.ndarray:
        """The returns of `episodes` (environment seed, row of the `controllers` [M, ...]), in order.

        Blocks that a stopped process has finished, for this `name` and `generation`, are not played again. `show`
        receives the number of finished episodes, estimated from their steps, and the same as text.
        """
        path = self.stage.work / f"{name}.json"

        def save(blocks: list[list[Outcome]]) -> None:
            if parallel.is_main():
                write_json(path, {"generation": generation, "blocks": blocks})

        def tell(counts: list[float], stop: bool) -> None:
            finished, steps, rest = before + int(counts[0]), int(counts[1] + counts[2]), len(episodes) - before
            total = expected_steps(rest, lanes.typical_length, *counts)
            if self.bar is not None:
                words = f"{finished}/{len(episodes)} episodes, {steps:,} of {total:,} steps"
                show(self.bar, before + rest * steps / max(total, 1), words)
            if stop and finished < len(episodes):
                raise Stopped(
                    f"stopped in {self.stage.name}, {name} {generation}, after {finished} of {len(episodes)} episodes; the "
                    "same command continues from the last block"
                )

        saved = parallel.on_main(lambda: read_json(path) if path.exists() else {})
        done = saved["blocks"] if saved.get("generation") == generation else []
        before = sum(len(block) for block in done)
        driver = AgentDriver(self.agent, self.params, controllers)
        barrier = Barrier(self.context.interrupt, tell)
        found = outcomes(lanes, driver, episodes, done, save, barrier.count, barrier.finish_count)
        return np.array([outcome[RETURN] for outcome in found], np.float32)


class PlayedGenerations:
    """Generations whose candidates play in the actual environment; one generation in each call."""

    in_call = 1
    begin = None
    """There are no dreams, so no start states."""

    def __init__(
        self, context: Context, config: EvolveConfig, search: PopulationSearch, variants: list[side_by_side.Variant],
        key: Key, seed: int, runner: EpisodeRunner, stack: ExitStack,
    ):  # fmt: skip
        """`key` draws the candidates, `seed` their episodes."""
        self.search, self.mesh, self.runner, self.variants = search, context.mesh, runner, variants
        # The dream splits keys in the same way: the first of each pair draws the candidates, the other the dream's
        # chance.
        keys = side_by_side.keys(key, variants)
        self.keys = parallel.replicate(self.mesh, jax.vmap(lambda key: jax.random.split(key)[0])(keys))
        self.seed = seed
        limits = Limits(config.max_steps, config.patience)
        lanes = Lanes(context.experiment.task, config.environments, context.screen.warn, limits, config.backend)
        self.lanes = stack.enter_context(lanes)
        self.note = ""

    @property
    def episodes(self) -> int:
        """Number of episodes in a generation."""
        return len(self.variants) * self.search.population * self.search.rollouts

    def __call__(self, states: Any, first: int) -> tuple[Any, dict[str, Array]]:
        """Run generation `first`: returns the searches' states [E, ...] and metrics [E, 1]."""
        search, several = self.search, len(self.variants)
        populations, states = _ask(search, states, first, self.keys)
        seeds = [
            evolution_seeds(self.seed, variant.seed, first, search.rollouts)
            for variant in self.variants
            for _ in range(search.population)
        ]
        episodes = [(seed, row) for row in range(several * search.population) for seed in seeds[row]]

        def show(bar: Bar, done: float, words: str) -> None:
            bar.update(first * len(episodes) + int(done), f"generation {first + 1}{self.note}")

        table = jax.tree.map(lambda array: np.asarray(array).reshape(-1, *array.shape[2:]), populations)
        found = self.runner.returns("generation", first + 1, self.lanes, table, episodes, show)
        fitness = found.reshape(several, search.population, search.rollouts).mean(axis=2)
        self.note = f", last mean {fitness.mean():.4g}"
        states, metrics = _tell(search, states, populations, parallel.replicate(self.mesh, fitness))
        return states, {name: values[:, None] for name, values in metrics.items()}


@partial(jax.jit, static_argnames="search")
def _ask(search: PopulationSearch, states: Any, generation: Array | int, keys: Key) -> tuple[Population, Any]:
    """The candidates [E, P, ...] of a generation [], and the states to pass to `_tell`."""
    return jax.vmap(search.ask, (0, None, 0))(states, generation, keys)


@partial(jax.jit, static_argnames="search")
def _tell(
    search: PopulationSearch, states: Any, populations: Population, fitness: Array
) -> tuple[Any, dict[str, Array]]:
    """The states after a generation with this fitness [E, P], and its metrics [E]."""
    return jax.vmap(search.tell)(states, populations, fitness)


class Validation:
    """Validation episodes, the same for every candidate, with seeds that no score uses."""

    def __init__(self, context: Context, config: EvolveConfig, runner: EpisodeRunner, stack: ExitStack):
        experiment = context.experiment
        self.episodes, self.runner = config.actual_episodes, runner
        count = experiment.evaluate.lanes(self.episodes * config.evolutions)
        self.lanes = stack.enter_context(Lanes(experiment.task, count, context.screen.warn, backend=config.backend))

    def __call__(self, candidates: Params, generation: int) -> np.ndarray:
        """The returns [E, episodes] of the candidates [E, ...] of a generation."""
        several = rows(candidates)
        wanted = [(VALIDATION_SEED + i, row) for row in range(several) for i in range(self.episodes)]

        def show(bar: Bar, done: float, words: str) -> None:
            bar.update(bar.done, f"validation of generation {generation}: {words}")

        found = self.runner.returns("validation", generation, self.lanes, candidates, wanted, show)
        return found.reshape(several, self.episodes)
