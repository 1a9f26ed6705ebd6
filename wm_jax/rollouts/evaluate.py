"""Scores: returns in the actual environment on fresh seeds, with n, mean, standard deviation and standard error."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from wm_jax import parallel
from wm_jax.rollouts.acting import Count, Driver, Lanes, Tick

BLOCK = 8
"""A block holds this many episodes for each lane, of environments on the host, whose lanes would wait for each other at its
end; on the device they do so in any case, and it holds one. What is finished survives a kill block by block."""


RETURN = "return"
Outcome = dict[str, float]
"""What came of an episode: its return, and what else its environment measures (`JaxEnvironment.measures`)."""


def summary(returns: Sequence[float]) -> dict[str, Any]:
    """{"mean", "sd", "se", "n"}: sd is the sample standard deviation, se = sd/√n (0 for a single episode). All but n are
    None where a return is not finite, as in a dream that broke."""
    values = np.asarray(returns, np.float64)
    if not np.isfinite(values).all():
        return {"mean": None, "sd": None, "se": None, "n": len(values)}
    sd = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return {"mean": float(values.mean()), "sd": sd, "se": sd / math.sqrt(len(values)), "n": len(values)}


def blocks(episodes: Sequence[tuple[int, int]], size: int) -> list[Sequence[tuple[int, int]]]:
    """The episodes cut into blocks of this size: fixed, so that going on after a stop plays the very same ones."""
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
    """What came of every episode (environment seed, controller row), in order; the processes share out each block.

    `done` holds the blocks finished before; `save` is given all finished blocks after each. `tick` is told after every
    step how far this process is with the rest; `wait` is told the same when its share of a block is finished, and returns
    when all processes' are.
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
    """The means over all episodes of what was measured beside the return."""
    names = [name for name in found[0] if name != RETURN]
    return {name: float(np.mean([outcome[name] for outcome in found])) for name in names}


def score(values: Sequence[float], seeds: Sequence[int], **about: Any) -> dict[str, Any]:
    """A score as results hold it: summary, returns, seeds, and whatever `about` says of how it was made."""
    return {**summary(values), "returns": list(values), "seeds": list(seeds), **about}
