"""An experiment's parts, built: task, world model, dream, actor, search, explorer; all without weights."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from jax.sharding import Mesh

from wm_jax.dream import Dream
from wm_jax.experiment import Experiment
from wm_jax.explore import Explorer
from wm_jax.search import Search
from wm_jax.tasks import Task, load_task
from wm_jax.types import Params, State
from wm_jax.worlds import Actor, WorldModel
from wm_jax.worlds.protocol import feature_sizes, shapes


@dataclass(frozen=True)
class Models:
    """The parts of an experiment. Raises `UserError`, where one is asked for, if parts do not go together."""

    experiment: Experiment

    @cached_property
    def task(self) -> Task:
        """The environment."""
        return load_task(self.experiment.task)

    @cached_property
    def world(self) -> WorldModel:
        """The world model."""
        return self.experiment.world.build(self.task)

    @cached_property
    def actor(self) -> Actor:
        """C."""
        return self.experiment.actor.build(self.dream)

    @cached_property
    def dream(self) -> Dream:
        """The dream."""
        return Dream(self.world, self.experiment.dream, self.task.actions)

    @cached_property
    def explorer(self) -> Explorer:
        """What is done to C's actions while it collects."""
        return self.experiment.explorer.build(self.world.action_size)

    def search(self, generations: int, mesh: Mesh | None = None) -> Search:
        """How C is found, in so many generations."""
        return self.experiment.search.build(self.actor, self.dream, generations, mesh)

    def start_dream(self, search: Search) -> Dream:
        """The dream that a search learns in, which may start elsewhere than the one that controllers are scored in."""
        start = search.start or self.experiment.dream.start
        return replace(self.dream, config=replace(self.experiment.dream, start=start))

    @property
    def state_shapes(self) -> tuple[Params, Any, State]:
        """Shapes of the world model's weights, of one encoded frame, and of one state."""
        return shapes(self.world)

    @property
    def feature_sizes(self) -> dict[str, int]:
        """Numbers of each feature that C may read."""
        return feature_sizes(self.world)
