"""Scores: returns in the actual environment on fresh seeds, with n, mean, standard deviation and standard error."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from wm_jax import parallel
from wm_jax.rollouts.acting import Count, Driver, Lanes, Tick

BLOCK = 8
"""Episodes per lane in a block, for environments on the host: lanes wait for each other only at a block's end. On the
device a block has one episode per lane. A killed run keeps its finished blocks."""


RETURN = "return"
Outcome = dict[str, float]
"""Result of an episode: its return and the environment's extra measures (`JaxEnvironment.measures`)."""


def summary(returns: Sequence[float]) -> dict[str, Any]:
    """{"mean", "sd", "se", "n"}: sd is the sample standard deviation, se = sd/√n (0 for a single episode). All but n
    are None if a return is not finite, as in a dream that broke."""
    values = np.asarray(returns, np.float64)
    if not np.isfinite(values).all():
        return {"mean": None, "sd": None, "se": None, "n": len(values)}
    sd = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return {"mean": float(values.mean()), "sd": sd, "se": sd / math.sqrt(len(values)), "n": len(values)}


def blocks(episodes: Sequence[tuple[int, int]], size: int) -> list[Sequence[tuple[int, int]]]:
    """The episodes in blocks of this size. The blocks are fixed, so that a resumed run plays the same ones."""
    return [episodes[i : i + size] for i in range(0, len(episodes), size)]


def outcomes(
    lanes: Lanes,
    driver: Driver,
    episodes: Sequence[tuple[int, int]],
    done: list[list[Outcome]],
    save: Callable[[list[list[Outcome]]], None],
    tick: Tick,
    wait: Tick = lambda count: None,
) -> list[Outcome]:
    """Results of all episodes (environment seed, controller row), in order; the processes share each block.

    `done`: the blocks finished before; `save` is called with all finished blocks after each block. `tick` is called
    with this process's progress after every step; `wait` is called with it when this process's share of a block is
    finished, and returns when those of all processes are.
    """
    finished, count = list(done), Count()
    before = sum(len(block) for block in finished)
    each = BLOCK if lanes.environment is None else 1
    for block in blocks(episodes[before:], each * lanes.count * jax.process_count()):
        mine = lanes.play(driver, parallel.share(block), tick=lambda now, count=count: tick(count + now))
        count += Count(len(mine), sum(len(episode.rewards) for episode in mine))
        wait(count)
        finished.append(parallel.join([{RETURN: sum(episode.rewards), **episode.measures} for episode in mine]))
        save(finished)
    return [outcome for block in finished for outcome in block]


def measures(found: Sequence[Outcome]) -> dict[str, float]:
    """Means over all episodes of each measure except the return."""
    names = [name for name in found[0] if name != RETURN]
    return {name: float(np.mean([outcome[name] for outcome in found])) for name in names}


def score(values: Sequence[float], seeds: Sequence[int], **about: Any) -> dict[str, Any]:
    """A score as stored in results: summary, returns, seeds, and the entries of `about`."""
    return {**summary(values), "returns": list(values), "seeds": list(seeds), **about}
