"""What is common to all searches: how long they go on, where candidates play, who is evaluated, chosen and deployed."""

from dataclasses import dataclass, field
from typing import Literal

from wm_jax.errors import UserError, require_choice, require_range
from wm_jax.search.cma_es import CMAESConfig
from wm_jax.search.protocol import SearchConfig


@dataclass(frozen=True)
class EvolveConfig:
    """The stage that finds C, by the search that `search` describes. The defaults are the paper's."""

    fitness: Literal["dream", "actual"] = "dream"
    """Where candidates play: in the dream, or in the actual environment, as the paper's Car Racing does, where of M only
    its memory is used. There all candidates of a generation meet the same episodes, and each generation meets new ones."""
    environments: int = 16
    """With `fitness` actual: environments stepped side by side."""
    backend: str | None = None
    """Which of the task's backends is played, by candidates with `fitness` actual and in validation; the reference unless
    given."""
    max_steps: int | None = None
    """With `fitness` actual: a candidate's episodes are cut off after this many steps; the task's own limit unless given.
    Validation and scores are whole episodes in any case."""
    patience: int | None = None
    """With `fitness` actual: they are also cut off after this many steps in a row without a positive reward, which spares
    what is lost and no longer tells good candidates from bad ones."""
    generations: int = 2000
    """Generations in all."""
    evaluate_every: int = 25
    """Generations between two evaluations of the search's candidate: of CMA-ES the distribution's mean."""
    evaluation_rollouts: int = 1024
    """Dreams that it is evaluated on."""
    select: Literal["dream", "actual"] = "dream"
    """Which score of the evaluated candidates decides what is deployed: the dream's (the paper), or the actual
    environment's in `actual_episodes`."""
    actual_episodes: int = 8
    """Episodes in the actual environment, never those of the final score, that each evaluated candidate plays: they show
    when C begins to cheat its dream. 0 plays none."""
    temperatures: tuple[float, ...] = ()
    """Temperatures whose searches run side by side, as the paper's table has them; none is dream.temperature alone."""
    seeds: int = 1
    """Searches at each temperature, independent of each other."""

    @property
    def evolutions(self) -> int:
        """E: how many run side by side."""
        return max(1, len(self.temperatures)) * self.seeds

    @property
    def evaluated(self) -> list[int]:
        """The generations whose candidate is evaluated: every `evaluate_every`-th, and the last one."""
        return [*range(self.evaluate_every, self.generations, self.evaluate_every), self.generations]

    @property
    def validated_in(self) -> str:
        """Where evaluated candidates play their validation episodes, in words."""
        return "the actual environment" + (f" ({self.backend})" if self.backend else "")

    def __post_init__(self) -> None:
        _require_stage("evolve", self)
        require_range("evolve.generations", self.generations, 1, 2**30)
        require_range("evolve.evaluation_rollouts", self.evaluation_rollouts, 1, 2**24)
        require_choice("evolve.select", self.select, ("dream", "actual"))
        require_range("evolve.actual_episodes", self.actual_episodes, 1 if self.select == "actual" else 0)
        for temperature in self.temperatures:
            require_range("evolve.temperatures", temperature, 1e-3, 100.0)
            if self.temperatures.count(temperature) > 1:
                raise UserError(f"evolve.temperatures has {temperature} more than once; for several evolutions at one "
                                "temperature raise evolve.seeds")  # fmt: skip
        require_range("evolve.seeds", self.seeds, 1, 2**20)
        self._check_actual()

    def _check_actual(self) -> None:
        """Raise `UserError` where the actual environment is asked for what only a dream has."""
        require_choice("evolve.fitness", self.fitness, ("dream", "actual"))
        for name in ("max_steps", "patience"):
            limit = getattr(self, name)
            if limit is not None and self.fitness == "dream":
                raise UserError(f"evolve.{name} is {limit} but evolve.fitness is 'dream', where dream.horizon says how "
                                f"long a rollout lasts; leave evolve.{name} out")  # fmt: skip
        if self.fitness == "actual" and self.select == "dream":
            raise UserError("evolve.select is 'dream' but evolve.fitness is 'actual': no candidate has a dream's score; "
                            "set evolve.select to 'actual'")  # fmt: skip
        if self.fitness == "actual" and self.temperatures:
            raise UserError(f"evolve.temperatures is {self.temperatures} but evolve.fitness is 'actual', which has no "
                            "temperature; leave it empty, and raise evolve.seeds for several evolutions")  # fmt: skip


@dataclass(frozen=True)
class TuneConfig:
    """How C goes on being searched for after its dreams: in the actual environment, from the controller that they made, the
    world model staying as it is. All is meant as in `EvolveConfig` with `fitness` actual."""

    generations: int = 0
    """0: C stays as the dreams made it."""
    search: SearchConfig = field(default_factory=lambda: CMAESConfig(sigma=0.03))
    """How. Keep its first step smaller than where the search began: far from a working controller most candidates are
    worse."""
    evaluate_every: int = 25
    """Generations between two validations of the search's candidate; the best one is deployed. Generation 0 is what the
    dreams made: it is validated too, and stays where tuning only harms."""
    actual_episodes: int = 8
    """Episodes of a validation."""
    environments: int = 16
    """Environments stepped side by side."""
    backend: str | None = None
    """Which of the task's backends is played, in validation too."""
    max_steps: int | None = None
    """A candidate's episodes are cut off after this many steps."""
    patience: int | None = None
    """They are also cut off after this many steps in a row without a positive reward."""

    def __post_init__(self) -> None:
        _require_stage("tune", self)
        require_range("tune.generations", self.generations, 0, 2**30)
        require_range("tune.actual_episodes", self.actual_episodes, 1, 2**20)

    @property
    def as_evolution(self) -> EvolveConfig:
        """The same as an `EvolveConfig`, where it has any generations."""
        names = ("generations", "evaluate_every", "actual_episodes", "environments", "backend", "max_steps", "patience")
        return EvolveConfig(fitness="actual", select="actual", **{name: getattr(self, name) for name in names})


def _require_stage(group: str, config: EvolveConfig | TuneConfig) -> None:
    """Raise `UserError` where a number of this `group` of settings makes no search."""
    require_range(f"{group}.evaluate_every", config.evaluate_every, 1)
    require_range(f"{group}.environments", config.environments, 1, 1024)
    for name in ("max_steps", "patience"):
        limit = getattr(config, name)
        if limit is not None:
            require_range(f"{group}.{name}", limit, 1)
