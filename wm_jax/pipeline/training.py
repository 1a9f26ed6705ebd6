"""The stages that train a world model: one for each learner, and a stage between them that encodes every frame."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from wm_jax import parallel
from wm_jax.data import observations
from wm_jax.data.episodes import EpisodeStore
from wm_jax.data.files import replacing
from wm_jax.data.training import TrainingData
from wm_jax.data.weights import save_weights
from wm_jax.pipeline.context import Context
from wm_jax.pipeline.loop import Metrics, Work, run_loop
from wm_jax.pipeline.progress import Barrier, Stopped
from wm_jax.pipeline.stages import LATER, Stage
from wm_jax.pipeline.weights import ENCODED, WEIGHTS, load_learner, load_observations
from wm_jax.report import figures
from wm_jax.run import StageDir
from wm_jax.types import HELD_OUT, TRAINED, Array, Observations, Params
from wm_jax.worlds import WorldModel

PART = "{:06d}.safetensors"
"""File name of a part of the encoded frames, by the number of its first episode."""
RECONSTRUCTIONS = "reconstructions-round{round}-step{step}.png"
"""File name, in the run's figures, of held-out frames above a learner's reconstructions."""
EPISODES_IN_PART = 16
"""Episodes encoded between two save points."""
FRAMES_IN_BATCH = 256
"""Frames encoded at once; rounded up so that all devices have equal shares."""


@dataclass(frozen=True)
class Train(Stage):
    """Trains the learner of this name on the recordings. Later rounds continue the training on old and new episodes, if
    at all."""

    name: str
    folder: str
    settings: str
    """Prefix of the learner's settings (`Learner.settings`)."""
    shared: tuple[str, ...] = ()
    """Settings that the whole world model depends on, if this stage is the first that makes a part of it."""

    def depends(self, later: bool) -> tuple[str, ...]:
        """First round: the learner's and the shared settings. Later rounds: its `LATER` settings and
        `rounds.new_share`."""
        if not later:
            return *self.shared, self.settings
        return *(f"{self.settings}{name}" for name in LATER), "rounds.new_share"

    def outputs(self, context: Context, round_number: int) -> list[str]:
        """The learner's weights."""
        return [WEIGHTS]

    def run(self, context: Context, round_number: int, stage: StageDir) -> dict[str, Any]:
        """Train, and write the weights. The summary is the last report."""
        name, mesh, learner = self.name, context.mesh, context.learner(self.name, round_number)
        params = _before(context, name, round_number)
        if learner.steps == 0:
            parallel.on_main(lambda: save_weights(stage.path / WEIGHTS, params, {"model": name}))
            return {"steps": 0}
        reads = learner.reads == "observations"
        recorded = load_observations(context, round_number) if reads else None
        chosen = context.training_episodes(round_number), context.held_out_episodes(round_number)
        data = TrainingData(context.store(round_number), *chosen, recorded, context.trained_episodes(round_number))
        reporter, report_key = learner.reporter(data), context.key(f"{name} report", 0)
        seed, key = context.seed(f"{name} batches", round_number), context.key(name, round_number)

        def evaluate(state: Any, done: int) -> Metrics:
            report = reporter(parallel.local(state.params), report_key)
            if report.frames is not None and figures.can_draw():
                picture = RECONSTRUCTIONS.format(round=round_number, step=f"{done:07d}")
                with replacing(context.run.figures / picture) as unfinished:
                    figures.reconstructions(unfinished, report.frames, report.drawn)
            return dict(report.numbers)

        work = Work(
            title=f"{learner.title}, round {round_number}", unit=learner.unit, units=learner.units, steps=learner.steps,
            stride=1, advance_from=lambda begun: learner.advance(data, seed, begun, key, mesh), watch=learner.watch,
            average=learner.average, evaluate_every=learner.report_every(data), evaluate=evaluate,
            result=lambda state: state.params, remedy=learner.remedy,
        )  # fmt: skip
        state = learner.start(params, mesh)
        state = run_loop(stage, work, state, context.screen, context.interrupt, context.experiment.checkpoint_seconds)
        trained = parallel.local(state.params)
        parallel.on_main(lambda: save_weights(stage.path / WEIGHTS, trained, {"model": name}))
        return {"steps": work.steps, **_last_report(context, stage)}


def _before(context: Context, name: str, round_number: int) -> Params:
    """A learner's weights before a round's training."""
    if round_number:
        return load_learner(context, name, round_number - 1)
    if context.initial is not None and name in context.initial:
        return context.initial[name]
    return context.models.world.learners[name].init(context.key(f"{name} init", 0))


def _last_report(context: Context, stage: StageDir) -> dict[str, Any]:
    lines = [line for line in context.run.metrics() if line["stage"] == stage.name]
    reports = [{k: v for k, v in line.items() if k.startswith((HELD_OUT, TRAINED))} for line in lines]
    return next((report for report in reversed(reports) if report), {})


@dataclass(frozen=True)
class Encode(Stage):
    """Encodes every recorded frame, in parts that survive a kill; the processes split them. If the encoder has not
    changed, only the new round's frames are encoded."""

    name = "encode"
    folder = "latents"

    shared: tuple[str, ...] = ()
    """As `Train.shared`: if no learner reads frames, this is the first stage of the world model."""

    def depends(self, later: bool) -> tuple[str, ...]:
        """The choice of world model, and the shared settings."""
        return () if later else ("world.kind", *self.shared)

    def outputs(self, context: Context, round_number: int) -> list[str]:
        """The encoded frames: of all rounds, or of the new one."""
        return [ENCODED]

    def run(self, context: Context, round_number: int, stage: StageDir) -> dict[str, Any]:
        """Encode the parts, then join them."""
        changed, store = context.encodes_anew(round_number), context.store(round_number)
        mesh = parallel.local_mesh(context.mesh)
        params = parallel.replicate(mesh, _trained(context, round_number))
        first = 0 if changed else len(store) - context.experiment.views * context.episodes_in(round_number)
        parts = [range(i, min(i + EPISODES_IN_PART, len(store))) for i in range(first, len(store), EPISODES_IN_PART)]
        folder = stage.work / "parts"
        folder.mkdir(parents=True, exist_ok=True)
        total = int(store.lengths[first:].sum())
        with context.screen.bar(f"encode, round {round_number}", "frames", total) as bar:

            def show(counts: list[float], stop: bool) -> None:
                frames, episodes = map(int, counts)
                bar.update(frames)
                if stop and frames < total:
                    raise Stopped(f"stopped in {stage.name} at episode {first + episodes} of {len(store)}; "
                                  "the same command continues from there")  # fmt: skip

            barrier, frames, episodes = Barrier(context.interrupt, show), 0, 0
            for part in parallel.share(parts):
                path = folder / PART.format(part.start)
                if not path.exists():
                    observations.save(path, encode_episodes(context, params, store, part))
                frames, episodes = frames + int(store.lengths[part.start : part.stop].sum()), episodes + len(part)
                barrier.tell(frames, episodes)
            barrier.finish(frames, episodes)
        files = [folder / PART.format(part.start) for part in parts]
        return parallel.on_main(lambda: _join(context, stage.path / ENCODED, files))


def _trained(context: Context, round_number: int) -> Params:
    """The weights that encoding depends on: those of learners trained before it."""
    learners = context.models.world.learners.items()
    return {name: load_learner(context, name, round_number) for name, learner in learners if learner.reads == "frames"}


def _join(context: Context, path: Path, files: list[Path]) -> dict[str, Any]:
    """Write the encoded frames of `files`, one after the other, to `path`."""
    like = context.models.state_shapes[1]
    joined = observations.concatenate([observations.load(file, like) for file in files])
    observations.save(path, joined)
    return {"frames": int(joined.length.sum()), "episodes": len(joined.length)}


def frames_in_batch(mesh: Mesh) -> int:
    """Frames that a process's devices encode at once."""
    return -(-FRAMES_IN_BATCH // mesh.size) * mesh.size


@partial(jax.jit, static_argnames="model")
def encode_frames(model: WorldModel, params: Params, frames: Array) -> Any:
    """Encode frames [B, 64, 64, 3] uint8 with the world model."""
    return model.encode(params, frames)


def encode_episodes(context: Context, params: Params, store: EpisodeStore, episodes: Sequence[int]) -> Observations:
    """Encode some episodes of the store. `params` are on this process's devices, which share every batch. All batches
    have the same size, so that nothing compiles again."""
    played = [store.episode(number) for number in episodes]
    frames = np.concatenate([episode.frames for episode in played])
    mesh = parallel.local_mesh(context.mesh)
    size = frames_in_batch(mesh)
    padded = np.pad(frames, ((0, -len(frames) % size), (0, 0), (0, 0), (0, 0)))
    encoded = [
        jax.device_get(encode_frames(context.models.world, params, parallel.rows(mesh, padded[i : i + size])))
        for i in range(0, len(padded), size)
    ]
    return observations.build(
        encoded=jax.tree.map(lambda *parts: np.concatenate(parts)[: len(frames)], *encoded),
        action=np.concatenate([episode.actions for episode in played]),
        reward=np.concatenate([episode.rewards for episode in played]),
        length=np.array([len(episode.frames) for episode in played]),
        terminated=np.array([episode.terminated for episode in played]),
    )
