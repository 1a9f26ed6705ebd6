"""Settings common to all searches: their length, where candidates play, and which are evaluated, selected and
deployed."""

from dataclasses import dataclass, field
from typing import Literal

from wm_jax.errors import UserError, require_choice, require_range
from wm_jax.search.cma_es import CMAESConfig
from wm_jax.search.protocol import SearchConfig


@dataclass(frozen=True)
class EvolveConfig:
    """The stage that finds C, with the search in `search`. The defaults are the paper's."""

    fitness: Literal["dream", "actual"] = "dream"
    """Where candidates play. dream: in the dream; actual: in the actual environment, as in the paper's Car Racing; M's
    predictions are not used there, only its state. All candidates of a generation play the same episodes, and each
    generation new ones."""
    environments: int = 16
    """Environments stepped side by side, with `fitness` actual."""
    backend: str | None = None
    """The task's backend for candidates with `fitness` actual and for validation; None: the reference backend."""
    max_steps: int | None = None
    """With `fitness` actual: candidates' episodes are truncated after this many steps; None: the task's own limit.
    Validation and scores always play whole episodes."""
    patience: int | None = None
    """With `fitness` actual: candidates' episodes are also truncated after this many consecutive steps without a
    positive reward; this saves steps after a candidate is lost, which no longer separate good candidates from bad ones.
    None: no such limit."""
    generations: int = 2000
    """Number of generations."""
    evaluate_every: int = 25
    """Generations between two evaluations of the search's candidate; for CMA-ES that is the distribution's mean."""
    evaluation_rollouts: int = 1024
    """Dreams per evaluation."""
    select: Literal["dream", "actual"] = "dream"
    """The score that selects the evaluated candidate to deploy: the dream's (the paper), or that of `actual_episodes`
    in the actual environment."""
    actual_episodes: int = 8
    """Validation episodes in the actual environment for each evaluated candidate, never those of the final score. They
    show when C begins to exploit errors of its dream. 0: none."""
    temperatures: tuple[float, ...] = ()
    """Temperatures of searches that run side by side, as in the paper's table; empty: only dream.temperature."""
    seeds: int = 1
    """Independent searches per temperature."""

    @property
    def evolutions(self) -> int:
        """E: searches that run side by side."""
        return max(1, len(self.temperatures)) * self.seeds

    @property
    def evaluated(self) -> list[int]:
        """The generations whose candidate is evaluated: every `evaluate_every`-th and the last."""
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
                raise UserError(f"evolve.temperatures has {temperature} more than once; for several searches at one "
                                "temperature increase evolve.seeds")  # fmt: skip
        require_range("evolve.seeds", self.seeds, 1, 2**20)
        self._check_actual()

    def _check_actual(self) -> None:
        """Raise `UserError` if settings of the dream and of the actual environment contradict each other."""
        require_choice("evolve.fitness", self.fitness, ("dream", "actual"))
        for name in ("max_steps", "patience"):
            limit = getattr(self, name)
            if limit is not None and self.fitness == "dream":
                raise UserError(f"evolve.{name} is {limit} but evolve.fitness is 'dream', where dream.horizon limits "
                                f"rollouts; remove evolve.{name}")  # fmt: skip
        if self.fitness == "actual" and self.select == "dream":
            raise UserError("evolve.select is 'dream' but evolve.fitness is 'actual': candidates have no dream score; "
                            "set evolve.select to 'actual'")  # fmt: skip
        if self.fitness == "actual" and self.temperatures:
            raise UserError(f"evolve.temperatures is {self.temperatures} but evolve.fitness is 'actual', which has no "
                            "temperature; leave it empty, and increase evolve.seeds for several searches")  # fmt: skip


@dataclass(frozen=True)
class TuneConfig:
    """Tuning: after the search in dreams, C is searched further in the actual environment, starting from the deployed
    controller of the search in dreams; of several `evolve.seeds` only this one is tuned. The world model does not change.
    The settings have the meaning of `evolve` with `fitness` actual."""

    generations: int = 0
    """Number of generations; 0: no tuning."""
    search: SearchConfig = field(default_factory=lambda: CMAESConfig(sigma=0.03))
    """The search. Keep its first step smaller than that of the search in dreams: far from a working controller most
    candidates are worse."""
    evaluate_every: int = 25
    """Generations between two validations of the search's candidate; the best one is deployed. Generation 0, the
    controller found in dreams, is validated too and is kept if tuning only makes it worse."""
    actual_episodes: int = 8
    """Episodes per validation."""
    environments: int = 16
    """Environments stepped side by side."""
    backend: str | None = None
    """The task's backend, for validation too; None: the reference backend."""
    max_steps: int | None = None
    """Candidates' episodes are truncated after this many steps; None: the task's own limit."""
    patience: int | None = None
    """They are also truncated after this many consecutive steps without a positive reward; None: no such limit."""

    def __post_init__(self) -> None:
        _require_stage("tune", self)
        require_range("tune.generations", self.generations, 0, 2**30)
        require_range("tune.actual_episodes", self.actual_episodes, 1, 2**20)

    @property
    def as_evolution(self) -> EvolveConfig:
        """The same settings as an `EvolveConfig`, if there are any generations."""
        names = ("generations", "evaluate_every", "actual_episodes", "environments", "backend", "max_steps", "patience")
        return EvolveConfig(fitness="actual", select="actual", **{name: getattr(self, name) for name in names})


def _require_stage(group: str, config: EvolveConfig | TuneConfig) -> None:
    """Raise `UserError` if a number in this `group` of settings is out of range."""
    require_range(f"{group}.evaluate_every", config.evaluate_every, 1)
    require_range(f"{group}.environments", config.environments, 1, 1024)
    for name in ("max_steps", "patience"):
        limit = getattr(config, name)
        if limit is not None:
            require_range(f"{group}.{name}", limit, 1)
