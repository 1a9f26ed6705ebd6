"""The facts of a run for a report, as read from its folder, without interpretation."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from wm_jax.experiment import Experiment
from wm_jax.models import Models
from wm_jax.search import EpisodeSearch, Search
from wm_jax.search.config import EvolveConfig

MetricsLine = dict[str, Any]
"""{"stage", "step", "time", and numbers by name}; lists of numbers if several evolutions ran side by side."""
Summary = dict[str, Any]
"""{"mean", "sd", "se", "n"} of returns; scores also have "returns", "seeds", "device", "versions"."""


@dataclass(frozen=True)
class StageFacts:
    """One stage of one round."""

    stage: str
    """Its name for --stages."""
    round_number: int
    record: dict[str, Any] | None
    """Its stage.json; None before it started."""
    taken_over: bool = False
    """Whether another run did it."""
    folder: str = ""
    """Its folder in the run's folder; also the prefix of its metrics."""

    @property
    def finished(self) -> bool:
        """Whether it has finished."""
        return self.record is not None and self.record["finished"]

    @property
    def summary(self) -> dict[str, Any]:
        """The stage's summary of its result; empty before it is finished."""
        return self.record.get("summary", {}) if self.record is not None and self.finished else {}

    def __str__(self) -> str:
        return f"{self.stage} (round {self.round_number})"


@dataclass(frozen=True)
class SearchFacts:
    """A search of a run: C's evolutions of all rounds, the tuning after them, or the explorer's searches."""

    stage: str
    """Its name for --stages: evolve, tune or explore."""
    folder: str
    """Its folder, as its metrics name it."""
    config: EvolveConfig
    evaluations: dict[int, list[dict[str, Any]]]
    """For each finished round: [{"generation", "dream", "actual"}], each a Summary or None, of the deployed
    evolution."""

    @property
    def place(self) -> str:
        """Where C was evolved, as named in evaluations and colours: dream or actual."""
        return self.config.fitness


@dataclass(frozen=True)
class RunFacts:
    """One run."""

    label: str
    """Distinguishes it from the other runs of the report."""
    folder: str
    experiment: Experiment
    stages: tuple[StageFacts, ...]
    """All stages of the experiment, in order."""
    parameters: dict[str, int]
    """Number of weights of each learner and of the controller, as far as their files exist."""
    metrics: tuple[MetricsLine, ...]
    damaged_lines: int
    """Number of unreadable lines in metrics.jsonl."""
    searches: tuple[SearchFacts, ...]
    """The evolution, and the tuning if there is one. The last one's C is deployed."""
    explorer: SearchFacts | None
    """The search for the explorer's own controller, if it has one."""
    scores: dict[str, Summary]
    """By policy; empty before the last stage is finished."""
    evolutions: tuple[dict[str, Any], ...]
    """[{"temperature", "seed", "dream", "actual"}]: the scores of each evolution, if several ran side by side."""
    reconstructions: dict[int, bytes]
    """For each round: PNG of held-out frames above a learner's reconstructions, from its last report."""
    film_strips: dict[str, bytes]
    """By film name: PNG of the actual environment, the world model's view, and the dream from the same first frame."""

    @property
    def finished(self) -> bool:
        """Whether every stage has finished."""
        return all(stage.finished for stage in self.stages)

    @property
    def records(self) -> list[dict[str, Any]]:
        """The stage.json of every started stage, in order."""
        return [stage.record for stage in self.stages if stage.record is not None]

    @property
    def commands(self) -> list[str]:
        """The commands that ran the stages, without duplicates."""
        return list(dict.fromkeys(record["command"] for record in self.records if "command" in record))

    @property
    def devices(self) -> str:
        """The devices that the stages ran on, without duplicates."""
        return ", ".join(dict.fromkeys(record["device"] for record in self.records if "device" in record))

    @property
    def seconds(self) -> float:
        """Total time of the finished stages."""
        return sum(stage.summary.get("seconds", 0.0) for stage in self.stages)

    def stage(self, name: str, round_number: int) -> StageFacts:
        """The stage of that name in a round."""
        return next(s for s in self.stages if (s.stage, s.round_number) == (name, round_number))

    @property
    def place(self) -> str:
        """Where C was evolved, before any tuning: dream or actual."""
        return self.searches[0].place

    @property
    def searched(self) -> bool:
        """Whether C has weights that were searched for."""
        return self.experiment.searched

    @property
    def chosen_by(self) -> SearchFacts:
        """The search whose C is deployed."""
        return self.searches[-1]

    @property
    def recorded(self) -> str:
        """The number of episodes and frames recorded in all rounds, in words; empty before the first round's end."""
        found = [stage.summary for stage in self.stages if stage.stage == "collect" and stage.finished]
        episodes, frames = (sum(summary[name] for summary in found) for name in ("episodes", "frames"))
        mirrored = ", and their mirror images" if self.experiment.mirror else ""
        return f"{episodes:,} episodes, {frames:,} frames{mirrored}" if found else ""

    @cached_property
    def models(self) -> Models:
        """The parts of the run, without weights."""
        return Models(self.experiment)

    def found_by(self, search: "SearchFacts") -> Search:
        """The search behind a stage, which describes itself in words."""
        experiment, models = self.experiment, self.models
        config = experiment.tune.search if search.stage == "tune" else experiment.search
        return config.build(models.actor, models.dream, search.config.generations)

    @property
    def generation(self) -> str:
        """A description of a generation of C's search."""
        search = self.found_by(self.searches[0])
        if self.place == "actual" and isinstance(search, EpisodeSearch):
            return search.words_in_actual
        return search.words

    @property
    def side_by_side(self) -> int:
        """Number of evolutions in each round."""
        return self.experiment.evolve.evolutions

    def shown(self, round_number: int) -> int:
        """Number of the evolution whose curves are shown: the deployed one; the first until one is deployed."""
        return self.stage("evolve", round_number).summary.get("evolution", 0)

    def series(self, folder: str, name: str) -> tuple[list[float], list[float]]:
        """(steps, values) of a metric of the shown evolution, over all rounds. Each round's steps continue those of the
        rounds before."""
        steps, values = [], []
        for number, (start, lines) in enumerate(zip(self.starts(folder), self._by_round(folder), strict=True)):
            for line in lines:
                found = line.get(name)
                value = found[self.shown(number)] if isinstance(found, list) else found
                if value is not None:
                    steps.append(start + line["step"])
                    values.append(value)
        return steps, values

    def starts(self, folder: str) -> list[int]:
        """For each round, the number of steps in all earlier rounds."""
        lengths = [max((line["step"] for line in lines), default=0) for lines in self._by_round(folder)]
        return [sum(lengths[:number]) for number in range(len(lengths))]

    def boundaries(self, folder: str) -> tuple[int, ...]:
        """The steps at which rounds end."""
        return tuple(start for start in self.starts(folder)[1:] if start)

    def _by_round(self, folder: str) -> list[list[MetricsLine]]:
        rounds = range(self.experiment.rounds.count)
        return [[line for line in self.metrics if line["stage"] == f"{folder}/round-{number}"] for number in rounds]
