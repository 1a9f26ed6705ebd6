"""The main programs of an experiment, traced at their real sizes for a machine that need not be present."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.stages import Traced

from wm_jax import parallel
from wm_jax.actors import protocol as actors
from wm_jax.data import observations
from wm_jax.dream.rollout import steps_between_looks
from wm_jax.dream.starts import expected_rows
from wm_jax.envs import JaxEnvironment
from wm_jax.experiment import Experiment
from wm_jax.models import Models
from wm_jax.pipeline import side_by_side
from wm_jax.pipeline.info import recorded_episodes, recorded_frames
from wm_jax.pipeline.training import encode_frames, frames_in_batch
from wm_jax.rollouts import device
from wm_jax.rollouts.agent import Agent, AgentPolicy
from wm_jax.search import Dreams
from wm_jax.targets import Target
from wm_jax.tasks import FRAME_SHAPE
from wm_jax.types import State


@dataclass(frozen=True)
class Program:
    """One program, before compilation."""

    name: str
    trace: Callable[[], Traced | None]
    """Traces the program; None if a user's own learner does not offer its program."""
    settings: tuple[str, ...]
    """Settings (whole numbers) that increase its memory, in the order in which to lower them."""
    steps: int | None = None
    """Dream steps of its innermost loop; None if it does not dream."""


def programs(experiment: Experiment, target: Target) -> Iterator[Program]:
    """The programs of an experiment, in the order of a run, for all devices of a machine. Raises `UserError` if XLA's
    compiler for it is missing, or if not even one search fits in memory."""
    mesh = target.mesh()
    models = Models(experiment)
    frames = experiment.views * recorded_frames(experiment, models)
    episodes = experiment.views * recorded_episodes(experiment)
    recorded = observations.shapes(frames, episodes, models.state_shapes[1], models.world.action_size)
    learners = models.world.learners.items()
    environment = models.task.environment(experiment.collect.backend)
    if environment is not None:
        yield Program("episodes", partial(_episodes, experiment, models, environment, mesh), ("evaluate.environments",))
    # Every process encodes on its own.
    encoding = Program("encoding", partial(_encode, models, target.host().mesh()), ())
    for reads in ("frames", "observations"):
        for name, learner in learners:
            if learner.reads == reads and learner.steps:
                settings = (f"{learner.settings}batch_size", *(() if reads == "frames" else ("collect.episodes",)))
                yield Program(f"training {name}", partial(learner.trace, recorded, mesh), settings)
        if reads == "frames":
            yield encoding
    if experiment.evolve.fitness == "dream":
        yield from _search(experiment, models, mesh, target.memory, episodes, frames / episodes)
    if experiment.exploring is not None:
        exploring = experiment.exploring
        for program in _search(exploring, Models(exploring), mesh, target.memory, episodes, frames / episodes):
            yield replace(program, name=f"exploring, {program.name}")


def _episodes(experiment: Experiment, models: Models, environment: JaxEnvironment, mesh: Mesh) -> Traced:
    """Collection in a later round, with the evaluated candidates. Each process plays its episodes on one device."""
    lanes = experiment.evaluate.lanes(max(experiment.rounds.episodes, experiment.evaluate.episodes))
    candidates = len(experiment.evolve.evaluated) * experiment.evolve.evolutions
    shapes = actors.shapes(models.actor)
    table = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((candidates, *leaf.shape), leaf.dtype), shapes)
    policy = AgentPolicy(Agent(models.world, models.actor, models.explorer))
    weights, longest = (models.state_shapes[0], table), models.task.max_steps
    return device.trace(environment, policy, weights, lanes, longest, partial(parallel.shape, mesh))


def _encode(models: Models, mesh: Mesh) -> Traced:
    params = {n: models.state_shapes[0][n] for n, learner in models.world.learners.items() if learner.reads == "frames"}
    frames = jax.ShapeDtypeStruct((frames_in_batch(mesh), *FRAME_SHAPE), jnp.uint8)
    return encode_frames.trace(models.world, parallel.shape(mesh, params), parallel.shape(mesh, frames, dealt=True))


def _search(
    experiment: Experiment, models: Models, mesh: Mesh, memory: int, episodes: int, length: float
) -> Iterator[Program]:
    config = experiment.evolve
    search = models.search(config.generations, mesh)
    work = side_by_side.bytes_at_work(experiment, models, search, mesh.size)
    starts = side_by_side.bytes_of_starts(models, search, episodes, length)
    groups = side_by_side.groups(config.evolutions, starts, search.bytes_at_rest(), work, memory)
    count = groups[0].stop
    params, _, state = models.state_shapes

    def table(start: Any) -> State:
        rows = expected_rows(start, episodes, length)
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((rows, *leaf.shape), leaf.dtype), state)

    key, number = parallel.key_shape(), jax.ShapeDtypeStruct((), jnp.int32)
    temperature: Any = jax.ShapeDtypeStruct((), jnp.float32)
    temperatures = jax.ShapeDtypeStruct((count,), jnp.float32)
    keys = jax.ShapeDtypeStruct((count,), key.dtype)
    lie = partial(parallel.shape, mesh)

    def generation() -> Traced:
        begin = table(models.start_dream(search).config)
        states = jax.eval_shape(
            lambda keys, starts: jax.vmap(lambda key: search.init(key, None, starts))(keys), keys, begin
        )
        dreams = Dreams(params, begin, temperature)
        return side_by_side.iterate.trace(
            search,
            *lie((states, dreams, temperatures, number, keys)),
            count=side_by_side.generations_in_call(config),
            mesh=mesh,
        )

    def evaluation() -> Traced:
        dreams = Dreams(params, table(models.dream.config), temperature)
        shapes = actors.shapes(models.actor)
        candidates = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype), shapes)
        return side_by_side.returns_of.trace(
            models.dream, models.actor, *lie((dreams, candidates, temperatures, keys, number, number)),
            rollouts=side_by_side.dreams_in_call(experiment, models), mesh=mesh,
        )  # fmt: skip

    yield Program("generations", generation, search.sizes, search.steps_in_loop)
    yield Program(
        "evaluation of candidates", evaluation, ("evolve.evaluation_rollouts",), steps_between_looks(models.dream)
    )
