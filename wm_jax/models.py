"""Builds an experiment's parts, without weights: task, world model, dream, actor, search, explorer."""

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
    """The parts of an experiment. Accessing a part raises `UserError` if the parts do not fit together."""

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
        """The actor C, without weights."""
        return self.experiment.actor.build(self.dream)

    @cached_property
    def dream(self) -> Dream:
        """The dream."""
        return Dream(self.world, self.experiment.dream, self.task.actions)

    @cached_property
    def explorer(self) -> Explorer:
        """The explorer, which changes C's actions during collection."""
        return self.experiment.explorer.build(self.world.action_size)

    def search(self, generations: int, mesh: Mesh | None = None) -> Search:
        """The search for C, over this many generations."""
        return self.experiment.search.build(self.actor, self.dream, generations, mesh)

    def start_dream(self, search: Search) -> Dream:
        """The dream that the search learns in. It may start from other states than the dream that scores
        controllers."""
        start = search.start or self.experiment.dream.start
        return replace(self.dream, config=replace(self.experiment.dream, start=start))

    @property
    def state_shapes(self) -> tuple[Params, Any, State]:
        """Shapes of the world model's weights, of one encoded frame, and of one state."""
        return shapes(self.world)

    @property
    def feature_sizes(self) -> dict[str, int]:
        """Size of each feature that C may read."""
        return feature_sizes(self.world)
