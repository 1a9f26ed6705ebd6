"""The stages that train V, encode every frame with it, and train M."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from wm_jax import memory as memory_wing
from wm_jax import parallel
from wm_jax import vision as vision_wing
from wm_jax.data import latents as latents_file
from wm_jax.data.episodes import EpisodeStore
from wm_jax.data.frames import FrameSource, frame_batches
from wm_jax.data.weights import check_like, load_weights, save_weights
from wm_jax.pipeline.context import Context
from wm_jax.pipeline.loop import Metrics, Work, run_loop
from wm_jax.pipeline.progress import Meetings, Stopped
from wm_jax.report import figures
from wm_jax.report.facts import HELD_OUT, TRAINED
from wm_jax.run import StageDir
from wm_jax.types import Latents, LatentStats, Params
from wm_jax.vision import Vision

WEIGHTS = "weights.safetensors"
LATENTS = "latents.safetensors"
PART = "{:06d}.safetensors"
"""A part of them, by the number of its first episode."""
RECONSTRUCTIONS = "reconstructions-round{round}-step{step}.png"
"""Held-out frames above what V makes of them, among the run's figures."""
EPISODES_IN_PART = 16
"""Episodes encoded between two moments at which a kill loses nothing."""
FRAMES_IN_BATCH = 256
"""Frames encoded at once, or as few more as fill all devices evenly."""
HELD_OUT_FRAMES = 512
"""Frames that V's held-out score is measured on."""
PICTURES = 8
"""Frames shown beside their reconstructions."""


def load_vision(context: Context, round_number: int) -> Params:
    """V's weights after a round."""
    return _load(context.stage("vision", round_number), context.models.vision.init)


def load_memory(context: Context, round_number: int) -> Params:
    """M's weights after a round."""
    return _load(context.stage("memory", round_number), context.models.memory.init)


def load_round_latents(context: Context, round_number: int) -> Latents:
    """Every frame of all rounds so far as V's posterior, on the device."""
    return jax.device_put(latents_file.load(context.stage("latents", round_number).path / LATENTS))


def _load(stage: StageDir, init: Any) -> Params:
    path = stage.path / WEIGHTS
    like = jax.eval_shape(init, jax.random.key(0))
    return jax.device_put(check_like(path, load_weights(path)[0], like))


def train_vision(context: Context, round_number: int, stage: StageDir) -> dict[str, Any]:
    """Train V on the recorded frames; in later rounds go on training it, if at all, on old and new ones."""
    model, store, mesh = context.vision(round_number), context.store(round_number), context.mesh
    config, key = model.config, context.key("vision", round_number)
    params = _vision_before(context, round_number)
    if config.steps == 0:
        return _leave(stage, params, "vision")
    training, held_out = context.training_episodes(round_number), context.held_out_episodes(round_number)
    epoch = max(1, int(store.lengths[training].sum()) // config.batch_size)
    pairs = config.motion_weight > 0
    unseen = FrameSource(store, held_out, pairs)
    sample = spread(len(unseen), HELD_OUT_FRAMES)
    frames = np.stack([unseen[int(i)] for i in sample]) if len(sample) else None

    def advance_from(start: int) -> Any:
        seed, part = context.seed("frames", round_number), (jax.process_index(), jax.process_count())
        batches = frame_batches(store, training, config.batch_size, seed, start, config.steps, part, pairs)
        return lambda state: vision_wing.train_step(model, state, parallel.rows(mesh, next(batches)), key)

    def evaluate(state: Any, done: int) -> Metrics:
        if frames is None:
            return {}
        params = parallel.local(state.params)
        metrics = vision_wing.evaluate(model, params, frames, context.key("vision report", 0))
        pictures = frames[spread(len(frames), PICTURES)]
        pictures = pictures[:, 1] if pairs else pictures
        name = RECONSTRUCTIONS.format(round=round_number, step=f"{done:07d}")
        figures.reconstructions(context.run.figures / name, pictures, reconstruct(model, params, pictures))
        return {f"{HELD_OUT}{name}": value for name, value in metrics.items()}

    work = Work(
        title=f"V, round {round_number}", unit="images", units=config.batch_size, steps=config.steps, stride=1,
        advance_from=advance_from, watch="reconstruction", average=50, evaluate_every=min(epoch, config.steps),
        evaluate=evaluate, result=lambda state: state.params,
        remedy="lower vision.optimizer.learning_rate and run it again with --redo",
    )  # fmt: skip
    state = vision_wing.continue_from(model, params)
    return _train(context, stage, work, parallel.replicate(mesh, state), "vision")


def _vision_before(context: Context, round_number: int) -> Params:
    """V's weights before a round's training."""
    if round_number:
        return load_vision(context, round_number - 1)
    initial = context.initial
    return context.models.vision.init(context.key("vision init", 0)) if initial is None else initial.vision


@partial(jax.jit, static_argnames="model")
def encode_frames(model: Vision, params: Params, frames: jax.Array) -> LatentStats:
    """The posteriors of frames [B, 64, 64, 3] uint8."""
    return model.encode(params, frames)


@partial(jax.jit, static_argnames="model")
def reconstruct(model: Vision, params: Params, frames: jax.Array) -> jax.Array:
    """What V makes of frames [B, 64, 64, 3] uint8, through the mean of z: float32 in [0, 1]."""
    return model.decode(params, model.encode(params, frames).mean)


def encode(context: Context, round_number: int, stage: StageDir) -> dict[str, Any]:
    """Encode every recorded frame, in parts that survive a kill; processes share them out. With an unchanged V only the
    new round's."""
    changed = round_number == 0 or context.experiment.rounds.vision_steps > 0
    store = context.store(round_number)
    params = parallel.replicate(parallel.local_mesh(context.mesh), load_vision(context, round_number))
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
                              "the same command goes on from there")  # fmt: skip

        meetings, frames, episodes = Meetings(context.interrupt, show), 0, 0
        for part in parallel.share(parts):
            path = folder / PART.format(part.start)
            if not path.exists():
                latents_file.save(path, encode_episodes(context, params, store, part))
            frames, episodes = frames + int(store.lengths[part.start : part.stop].sum()), episodes + len(part)
            meetings.tell(frames, episodes)
        meetings.finish(frames, episodes)
    before = [] if changed else [context.stage("latents", round_number - 1).path / LATENTS]
    files = [*before, *(folder / PART.format(part.start) for part in parts)]
    return parallel.on_main(lambda: _join_latents(stage.path / LATENTS, files))


def _join_latents(path: Path, files: list[Path]) -> dict[str, Any]:
    """Write the latents of `files`, one after the other, to `path`."""
    latents = latents_file.concatenate([latents_file.load(file) for file in files])
    latents_file.save(path, latents)
    return {"frames": int(latents.length.sum()), "episodes": len(latents.length)}


def encode_episodes(context: Context, params: Params, store: EpisodeStore, episodes: range) -> Latents:
    """The latents of some episodes of the store, `params` being on this process's devices, which share every batch.
    Batches have one size, so that nothing compiles anew."""
    played = [store.episode(number) for number in episodes]
    frames = np.concatenate([episode.frames for episode in played])
    mesh = parallel.local_mesh(context.mesh)
    size = -(-FRAMES_IN_BATCH // mesh.size) * mesh.size
    padded = np.pad(frames, ((0, -len(frames) % size), (0, 0), (0, 0), (0, 0)))
    stats = [
        jax.device_get(encode_frames(context.models.vision, params, parallel.rows(mesh, padded[i : i + size])))
        for i in range(0, len(padded), size)
    ]
    return latents_file.build(
        mean=np.concatenate([part.mean for part in stats])[: len(frames)],
        log_var=np.concatenate([part.log_var for part in stats])[: len(frames)],
        action=np.concatenate([episode.actions for episode in played]),
        reward=np.concatenate([episode.rewards for episode in played]),
        length=np.array([len(episode.frames) for episode in played]),
        terminated=np.array([episode.terminated for episode in played]),
    )


def train_memory(context: Context, round_number: int, stage: StageDir) -> dict[str, Any]:
    """Train M on the latents, and report what it knows of held-out episodes, and of as many that it is trained on: what it
    knows by heart shows as a difference between the two."""
    model, key, mesh = context.memory(round_number), context.key("memory", round_number), context.mesh
    config, params = model.config, _memory_before(context, round_number)
    if config.steps == 0:
        return _leave(stage, params, "memory")
    latents = load_round_latents(context, round_number)
    training = context.training_episodes(round_number)
    held_out = context.held_out_episodes(round_number)
    reported = {
        HELD_OUT: latents_file.select(latents, held_out),
        TRAINED: latents_file.select(latents, training[spread(len(training), len(held_out))]),
    }
    start, length = np.asarray(latents.start)[training], np.asarray(latents.length)[training]
    everywhere = parallel.replicate(mesh, latents)
    chunks_in_epoch = memory_wing.chunks_per_epoch(length, config.batch_size, config.sequence_length)

    def advance_from(begun: int) -> Any:
        seed = context.seed("streams", round_number)
        stream = memory_wing.chunks_from(start, length, config.batch_size, config.sequence_length, seed, begun)
        chunks = (replace(chunk, positions=parallel.rows(mesh, parallel.part(chunk.positions))) for chunk in stream)
        return lambda state: memory_wing.train_step(model, state, everywhere, next(chunks), key)

    def evaluate(state: Any, done: int) -> Metrics:
        metrics: Metrics = {}
        if len(held_out):
            weights, report_key = parallel.local(state.params), context.key("memory report", 0)
            for prefix, episodes in reported.items():
                report = memory_wing.evaluate(model, weights, episodes, report_key)
                metrics |= {f"{prefix}{name}": value for name, value in report.items()}
        return metrics

    work = Work(
        title=f"M, round {round_number}", unit="frames", units=config.batch_size * config.sequence_length,
        steps=config.steps, stride=1, advance_from=advance_from, watch="nll", average=20, evaluate=evaluate,
        evaluate_every=max(1, min(config.steps, max(chunks_in_epoch, config.steps // 5))),
        result=lambda state: state.params,
        remedy="lower memory.optimizer.learning_rate or set its clip, and run it again with --redo",
    )  # fmt: skip
    state = memory_wing.continue_from(model, params)
    carried = parallel.rows(mesh, parallel.part(state.memory_state))
    return _train(context, stage, work, replace(parallel.replicate(mesh, state), memory_state=carried), "memory")


def _memory_before(context: Context, round_number: int) -> Params:
    """M's weights before a round's training."""
    if round_number:
        return load_memory(context, round_number - 1)
    initial = context.initial
    return context.models.memory.init(context.key("memory init", 0)) if initial is None else initial.memory


def _leave(stage: StageDir, params: Params, model: str) -> dict[str, Any]:
    """Write the weights of a model that is not trained; the stage's summary."""
    parallel.on_main(lambda: save_weights(stage.path / WEIGHTS, params, {"model": model}))
    return {"steps": 0}


def _train(context: Context, stage: StageDir, work: Work, state: Any, model: str) -> dict[str, Any]:
    """Do the training and write the weights; what the stage's summary says of it."""
    state = run_loop(stage, work, state, context.screen, context.interrupt, context.experiment.checkpoint_seconds)
    params = parallel.local(state.params)
    parallel.on_main(lambda: save_weights(stage.path / WEIGHTS, params, {"model": model}))
    return {"steps": work.steps, **_last(context, stage)}


def _last(context: Context, stage: StageDir) -> dict[str, Any]:
    """The stage's last report."""
    lines = [line for line in context.run.metrics() if line["stage"] == stage.name]
    reports = [{k: v for k, v in line.items() if k.startswith((HELD_OUT, TRAINED))} for line in lines]
    return next((report for report in reversed(reports) if report), {})


def spread(count: int, wanted: int) -> np.ndarray:
    """At most `wanted` numbers spread evenly over 0 … count − 1."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).astype(int)) if count else np.zeros(0, int)
