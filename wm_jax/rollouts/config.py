"""Settings of what an agent does in actual environments: later rounds of collection, and scoring; which seeds are whose."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from wm_jax.errors import UserError, require_choice, require_range

VALIDATION_SEED = 500_000
"""Seeds of the validation episodes stand from here on; no score is ever measured on them."""
VALIDATION_SEEDS = 100_000
"""How many seeds are set aside for validation."""
EVOLUTION_SEED = 2**29
"""Seeds of the episodes that candidates are evolved on stand from here on, up to those of recorded episodes, which begin at
twice as much (`rollouts.collect.FIRST_SEED`); those below are left for validation and scores."""


@dataclass(frozen=True)
class RoundsConfig:
    """Going round: collect with what the round before evolved, go on training the world model on old and new data, evolve
    again. How long it trains are settings of its own (`later_steps`); so is what is done to C's actions (`explorer`)."""

    count: int = 1
    """Rounds in all; one is the paper."""
    episodes: int = 100
    """Episodes that are collected in each round after the first."""
    drivers: Literal["deployed", "evaluated", "scripted"] = "deployed"
    """deployed: by the controller that the round before chose; evaluated: by all candidates that it evaluated, in turn
    (where they are more than the episodes, by as many of them, from first to last), as those that did best in their dream
    because it was wrong show M where; scripted: by `collect.policy` again, without C."""
    patience: int | None = None
    """Episodes that C collects are cut off after this many steps in a row without a positive reward: what C sees once it is
    lost is seldom worth learning."""
    new_share: float = 0.5
    """Share of a round's training frames that are new; old episodes are drawn at random until they fill the rest."""
    generations: int = 0
    """Generations of the search for C in each later round; 0: as many as in the first."""
    warm_start: bool = False
    """Whether the search of a later round begins with the C that the round before chose, instead of fresh weights."""

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
    """n: fresh episodes for every policy that is scored."""
    seed: int = 1_000_000
    """Episode i is played with environment seed `seed + i`."""
    environments: int = 16
    """Environments stepped side by side; V, M and C run batched over them. Their number changes the last bits of what C
    does. Later rounds of collection, validation and scores use it in every process of a run (`lanes`)."""
    baselines: tuple[str, ...] = ("random",)
    """The task's scripted policies that are scored beside C; their settings are those of `collect`."""
    backend: str | None = None
    """Which of the task's backends is played; the reference unless given. Scores name another one: compare them with each
    other only."""
    rounds: tuple[int, ...] = ()
    """Rounds before the last, counted from 0, whose C is scored too, on what V and M were then."""

    def __post_init__(self) -> None:
        require_range("evaluate.episodes", self.episodes, 2)
        require_range("evaluate.environments", self.environments, 1, 1024)
        require_fresh("evaluate.seed", self.seed, self.episodes)

    def lanes(self, episodes: int) -> int:
        """Environments for so many episodes of all processes. It follows from the settings and never from the number of
        processes: the last bits of what C does hang on it."""
        return min(self.environments, episodes)


def evolution_seeds(seed: int, evolution: int, generation: int, episodes: int) -> list[int]:
    """The environment seeds, in [2²⁹, 2³⁰), that all candidates of an evolution's generation meet."""
    drawn = np.random.SeedSequence([seed, evolution, generation]).generate_state(episodes)
    return [EVOLUTION_SEED + (int(number) >> 3) for number in drawn]


def require_fresh(name: str, seed: int, episodes: int) -> None:
    """Raise `UserError` where the seeds `seed … seed + episodes` touch those of validation, evolution or collection."""
    require_range(name, seed, 0, EVOLUTION_SEED - episodes)
    if seed < VALIDATION_SEED + VALIDATION_SEEDS and seed + episodes > VALIDATION_SEED:
        raise UserError(
            f"{name} {seed} with {episodes} episodes touches the seeds that controllers are selected on "
            f"({VALIDATION_SEED} to {VALIDATION_SEED + VALIDATION_SEEDS - 1}); scores need fresh ones: choose another seed"
        )
