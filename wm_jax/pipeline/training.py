"""The stages that train V, encode every frame with it, and train M."""

from functools import partial
from typing import Any

import jax
import numpy as np

from wm_jax import memory as memory_wing
from wm_jax import vision as vision_wing
from wm_jax.data import latents as latents_file
from wm_jax.data.episodes import EpisodeStore
from wm_jax.data.frames import frame_batches
from wm_jax.data.weights import check_like, load_weights, save_weights
from wm_jax.pipeline.context import Context
from wm_jax.pipeline.loop import Metrics, Work, run_loop
from wm_jax.pipeline.progress import Stopped
from wm_jax.report import figures
from wm_jax.run import StageDir
from wm_jax.types import Latents, LatentStats, Params
from wm_jax.vision import Vision

WEIGHTS = "weights.safetensors"
LATENTS = "latents.safetensors"
EPISODES_IN_PART = 16
"""Episodes encoded between two moments at which a kill loses nothing."""
FRAMES_IN_BATCH = 256
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
    model, store = context.models.vision, context.store(round_number)
    key = context.key("vision", round_number)
    config = context.experiment.vision
    steps = config.steps if round_number == 0 else context.experiment.rounds.vision_steps
    if steps == 0:
        save_weights(stage.path / WEIGHTS, load_vision(context, round_number - 1), {"model": "vision"})
        return {"steps": 0}
    training, held_out = context.training_episodes(round_number), context.held_out_episodes(round_number)
    epoch = max(1, int(store.lengths[training].sum()) // config.batch_size)
    sample = _spread(frame_count(store, held_out), HELD_OUT_FRAMES)
    frames = np.stack([store.frame(i) for i in _frame_numbers(store, held_out)[sample]]) if len(sample) else None

    def advance_from(start: int) -> Any:
        batches = frame_batches(store, training, config.batch_size, context.seed("frames", round_number), start, steps)
        return lambda state: vision_wing.train_step(model, state, next(batches), key)

    def evaluate(state: Any, done: int) -> Metrics:
        if frames is None:
            return {}
        metrics = vision_wing.evaluate(model, state.params, frames, context.key("vision report", 0))
        pictures = frames[_spread(len(frames), PICTURES)]
        name = f"reconstructions-round{round_number}-step{done:07d}.png"
        figures.reconstructions(context.run.figures / name, pictures, reconstruct(model, state.params, pictures))
        return {f"held_out_{name}": value for name, value in metrics.items()}

    work = Work(
        title=f"V, round {round_number}", unit="images", units=config.batch_size, steps=steps, stride=1,
        advance_from=advance_from, watch="reconstruction", average=50, evaluate_every=min(epoch, steps),
        evaluate=evaluate, result=lambda state: state.params,
        remedy="lower vision.optimizer.learning_rate and run it again with --redo",
    )  # fmt: skip
    state = (
        vision_wing.init(model, context.key("vision init", 0))
        if round_number == 0
        else vision_wing.continue_from(model, load_vision(context, round_number - 1))
    )
    state = run_loop(stage, work, state, context.screen, context.interrupt, context.experiment.checkpoint_seconds)
    save_weights(stage.path / WEIGHTS, state.params, {"model": "vision"})
    return {"steps": steps, **_last(context, stage)}


@partial(jax.jit, static_argnames="model")
def encode_frames(model: Vision, params: Params, frames: jax.Array) -> LatentStats:
    """The posteriors of frames [B, 64, 64, 3] uint8."""
    return model.encode(params, frames)


@partial(jax.jit, static_argnames="model")
def reconstruct(model: Vision, params: Params, frames: jax.Array) -> jax.Array:
    """What V makes of frames [B, 64, 64, 3] uint8, through the mean of z: float32 in [0, 1]."""
    return model.decode(params, model.encode(params, frames).mean)


def encode(context: Context, round_number: int, stage: StageDir) -> dict[str, Any]:
    """Encode every recorded frame, in parts that survive a kill. With an unchanged V only the new round's."""
    changed = round_number == 0 or context.experiment.rounds.vision_steps > 0
    store = context.store(round_number)
    params = load_vision(context, round_number)
    first = 0 if changed else len(store) - context.episodes_in(round_number)
    parts = [range(i, min(i + EPISODES_IN_PART, len(store))) for i in range(first, len(store), EPISODES_IN_PART)]
    folder = stage.work / "parts"
    folder.mkdir(parents=True, exist_ok=True)
    total = int(store.lengths[first:].sum())
    with context.screen.bar(f"encode, round {round_number}", "frames", total) as bar:
        for part in parts:
            path = folder / f"{part.start:06d}.safetensors"
            if not path.exists():
                latents_file.save(path, encode_episodes(context, params, store, part))
            bar.update(int(store.lengths[first : part.stop].sum()))
            if context.interrupt.requested and part.stop < len(store):
                raise Stopped(f"stopped in {stage.name} at episode {part.stop} of {len(store)}; "
                              "the same command goes on from there")  # fmt: skip
    pieces = [latents_file.load(folder / f"{part.start:06d}.safetensors") for part in parts]
    if not changed:
        pieces.insert(0, latents_file.load(context.stage("latents", round_number - 1).path / LATENTS))
    latents = latents_file.concatenate(pieces)
    latents_file.save(stage.path / LATENTS, latents)
    return {"frames": int(latents.length.sum()), "episodes": len(latents.length)}


def encode_episodes(context: Context, params: Params, store: EpisodeStore, episodes: range) -> Latents:
    """The latents of some episodes of the store. Batches have one size, so that nothing compiles anew."""
    played = [store.episode(number) for number in episodes]
    frames = np.concatenate([episode.frames for episode in played])
    padded = np.pad(frames, ((0, -len(frames) % FRAMES_IN_BATCH), (0, 0), (0, 0), (0, 0)))
    stats = [
        jax.device_get(encode_frames(context.models.vision, params, padded[i : i + FRAMES_IN_BATCH]))
        for i in range(0, len(padded), FRAMES_IN_BATCH)
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
    """Train M on the latents, and report what it knows of held-out episodes."""
    model, key = context.models.memory, context.key("memory", round_number)
    config = context.experiment.memory
    latents = load_round_latents(context, round_number)
    training = context.training_episodes(round_number)
    held_out = latents_file.select(latents, context.held_out_episodes(round_number))
    start, length = np.asarray(latents.start)[training], np.asarray(latents.length)[training]
    steps = config.steps if round_number == 0 else context.experiment.rounds.memory_steps
    chunks = memory_wing.chunks_per_epoch(length, config.batch_size, config.sequence_length)

    def advance_from(begun: int) -> Any:
        seed = context.seed("streams", round_number)
        stream = memory_wing.chunks_from(start, length, config.batch_size, config.sequence_length, seed, begun)
        return lambda state: memory_wing.train_step(model, state, latents, next(stream), key)

    def evaluate(state: Any, done: int) -> Metrics:
        report_key = context.key("memory report", 0)
        report = memory_wing.evaluate(model, state.params, held_out, report_key) if len(held_out.length) else {}
        return {f"held_out_{name}": value for name, value in report.items()}

    work = Work(
        title=f"M, round {round_number}", unit="frames", units=config.batch_size * config.sequence_length, steps=steps,
        stride=1, advance_from=advance_from, watch="nll", average=20, evaluate=evaluate,
        evaluate_every=max(1, min(steps, max(chunks, steps // 5))), result=lambda state: state.params,
        remedy="lower memory.optimizer.learning_rate or set its clip, and run it again with --redo",
    )  # fmt: skip
    state = (
        memory_wing.init(model, context.key("memory init", 0))
        if round_number == 0
        else memory_wing.continue_from(model, load_memory(context, round_number - 1))
    )
    state = run_loop(stage, work, state, context.screen, context.interrupt, context.experiment.checkpoint_seconds)
    save_weights(stage.path / WEIGHTS, state.params, {"model": "memory"})
    return {"steps": steps, **_last(context, stage)}


def _last(context: Context, stage: StageDir) -> dict[str, Any]:
    """The stage's last held-out metrics."""
    lines = [line for line in context.run.metrics() if line["stage"] == stage.name]
    held_out = [{k: v for k, v in line.items() if k.startswith("held_out_")} for line in lines]
    return next((line for line in reversed(held_out) if line), {})


def frame_count(store: EpisodeStore, episodes: np.ndarray) -> int:
    """How many frames some episodes of the store have."""
    return int(store.lengths[episodes].sum())


def _frame_numbers(store: EpisodeStore, episodes: np.ndarray) -> np.ndarray:
    """The store's numbers of all frames of some episodes."""
    ranges = [store.starts[episode] + np.arange(int(store.lengths[episode])) for episode in episodes]
    return np.concatenate([np.zeros(0, int), *ranges])


def _spread(count: int, wanted: int) -> np.ndarray:
    """At most `wanted` numbers spread evenly over 0 … count − 1."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).astype(int)) if count else np.zeros(0, int)
