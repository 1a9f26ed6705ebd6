"""CMA-ES: the share of ask and tell in a generation whose dreams are as long as in the paper."""

from functools import partial

import jax
import jax.numpy as jnp

from wm_jax.actors import protocol as actors
from wm_jax.bench.config import BenchConfig
from wm_jax.bench.dream import FIRST, KEY, playing, search_of, set_up, steps_of
from wm_jax.bench.table import Result, Row
from wm_jax.bench.timing import compiled, interleaved, waited
from wm_jax.pipeline.progress import Screen
from wm_jax.search.cma_es import CMAES
from wm_jax.types import Key, Population, Returns

GENERATIONS = 24
"""Generations in one run: eight periods of the lazy eigendecomposition, due every third generation at the paper's
size."""


def _all_equal(population: Population, key: Key) -> Returns:
    """A fitness [P] that costs no time."""
    return jnp.zeros(len(jax.tree.leaves(population)[0]), jnp.float32)


def measure(config: BenchConfig, screen: Screen) -> Result:
    """Headline: milliseconds of ask and tell. The limit is the whole generation, so the ratio is their share of it."""
    setup = set_up(config)
    search = search_of(setup)
    fitness, state = jax.tree_util.Partial(_all_equal), search.init(jax.random.clone(KEY))
    evolve, seconds = compiled(CMAES.evolve, search, state, fitness, FIRST, KEY, GENERATIONS)
    works = {
        # The same generations each time: without selection, a continued search would drift out of bounds.
        "evolve": waited(partial(evolve, state, fitness, FIRST, KEY), GENERATIONS),
        "dream": steps_of(playing(setup)[0], setup.params),
    }
    rates = interleaved("evolve", works, config.seconds, screen)
    alone = 1e3 / rates["evolve"]
    dream = 1e3 * setup.dreams * config.life / rates["dream"]
    against = f"the whole generation, dreams of {config.life:,} steps included"
    rows = (
        Row("evolve", alone, "ms a generation", alone + dream, against),
        Row("evolve: compile time", seconds, "s"),
    )
    return Result(f"P {config.population}, D {actors.size(setup.actor):,}; {setup.words}", rows)
