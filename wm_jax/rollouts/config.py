"""Settings of agents in actual environments: later rounds of collection, and scoring; and the ranges of their seeds."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from wm_jax.errors import UserError, require_choice, require_range

VALIDATION_SEED = 500_000
"""Validation episodes use seeds from here on; scores never use them."""
VALIDATION_SEEDS = 100_000
"""Number of seeds reserved for validation."""
EVOLUTION_SEED = 2**29
"""Episodes that candidates are evolved on use seeds from here up to twice this number, where recorded episodes begin
(`rollouts.collect.FIRST_SEED`); lower ones are reserved for validation and scores."""


@dataclass(frozen=True)
class RoundsConfig:
    """Iteration: collect with the controller of the previous round, train the world model further on old and new data,
    evolve again. Other groups set the length of that training (`later_steps`) and the change to C's actions
    (`explorer`)."""

    count: int = 1
    """Number of rounds; the paper's experiments use 1."""
    episodes: int = 100
    """Episodes to collect in each round after the first."""
    drivers: Literal["deployed", "evaluated", "scripted"] = "deployed"
    """The controllers that collect. deployed: the one that the previous round chose; evaluated: all candidates that it
    evaluated, in turn (if there are more than episodes, a selection evenly from first to last): candidates that score
    well only because the dream is wrong show M its errors; scripted: `collect.policy`, without C."""
    patience: int | None = None
    """Episodes that C collects are truncated after this many consecutive steps without a positive reward: after C gets
    lost there is seldom anything worth learning. None: no such limit."""
    new_share: float = 0.5
    """Share of a round's training frames that are new; randomly drawn old episodes fill the rest."""
    generations: int = 0
    """Generations of the search for C in each later round; 0: as many as in the first."""
    warm_start: bool = False
    """Whether the search of a later round starts from the C that the previous round chose, instead of fresh weights."""

    def __post_init__(self) -> None:
        require_range("rounds.count", self.count, 1, 2**16)
        require_range("rounds.episodes", self.episodes, 1, 2**30)
        require_choice("rounds.drivers", self.drivers, ("deployed", "evaluated", "scripted"))
        if self.patience is not None:
            require_range("rounds.patience", self.patience, 1)
        require_range("rounds.new_share", self.new_share, 0.01, 1.0)
        require_range("rounds.generations", self.generations, 0)


@dataclass(frozen=True)
class EvaluateConfig:
    """Scoring in the actual environment."""

    episodes: int = 100
    """n: fresh episodes for each policy that is scored."""
    seed: int = 1_000_000
    """Episode i is played with environment seed `seed + i`."""
    environments: int = 16
    """Environments stepped side by side; V, M and C run batched over them. The number changes the last bits of C's
    actions. Also used by collection in later rounds and by validation; per process."""
    baselines: tuple[str, ...] = ("random",)
    """The task's scripted policies to score beside C, with the settings of `collect`."""
    backend: str | None = None
    """The task's backend to score in; None: the reference backend. Scores name any other one: compare only scores of
    the same backend."""
    rounds: tuple[int, ...] = ()
    """Earlier rounds, counted from 0, whose C is scored too, with the V and M of that round."""

    def __post_init__(self) -> None:
        require_range("evaluate.episodes", self.episodes, 2)
        require_range("evaluate.environments", self.environments, 1, 1024)
        require_fresh("evaluate.seed", self.seed, self.episodes)

    def lanes(self, episodes: int) -> int:
        """Environments for this many episodes, over all processes. The number depends only on the settings, not on the
        number of processes: C's actions depend on it in their last bits."""
        return min(self.environments, episodes)


def evolution_seeds(seed: int, evolution: int, generation: int, episodes: int) -> list[int]:
    """The environment seeds, in [2²⁹, 2³⁰), that all candidates of a generation share."""
    drawn = np.random.SeedSequence([seed, evolution, generation]).generate_state(episodes)
    return [EVOLUTION_SEED + (int(number) >> 3) for number in drawn]


def require_fresh(name: str, seed: int, episodes: int) -> None:
    """Raise `UserError` if the seeds from `seed` to `seed + episodes - 1` overlap those of validation, evolution or
    collection."""
    require_range(name, seed, 0, EVOLUTION_SEED - episodes)
    if seed < VALIDATION_SEED + VALIDATION_SEEDS and seed + episodes > VALIDATION_SEED:
        raise UserError(
            f"{name} {seed} with {episodes} episodes overlaps the seeds that controllers are selected on "
            f"({VALIDATION_SEED} to {VALIDATION_SEED + VALIDATION_SEEDS - 1}); scores need fresh ones: choose another seed"
        )
