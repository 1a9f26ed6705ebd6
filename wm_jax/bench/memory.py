"""M: sequence steps per second of training, compared with the same network in PyTorch and with matrix products."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from wm_jax.bench.config import BenchConfig
from wm_jax.bench.dream import recordings
from wm_jax.bench.limit import Turn, operations, products
from wm_jax.bench.references import reference
from wm_jax.bench.table import Result, Row
from wm_jax.bench.timing import Training, compiled, interleaved
from wm_jax.memory import Memory, MemoryConfig
from wm_jax.memory.train import Chunk, TrainState, init, train_step
from wm_jax.pipeline.progress import Screen

KEY = jax.random.key(0)


def measure(config: BenchConfig, screen: Screen) -> Result:
    """Headline: Take Cover's M; then Car Racing's."""
    car_racing = MemoryConfig(batch_size=config.sequences, sequence_length=config.sequence_length)
    take_cover = replace(
        car_racing, hidden_size=config.hidden_size, mixtures=config.mixtures, predict_done=True, restart_input=True
    )
    rows = [
        *_rows("memory", Memory(take_cover, config.latent_size, 1), config, screen),
        *_rows("memory: Car Racing", Memory(car_racing, 32, 3), config, screen),
    ]
    batches = f"batches of {config.sequences} × {config.sequence_length}"
    sizes = f"{batches}, Z {config.latent_size}, H {config.hidden_size}; Car Racing's Z 32, H 256"
    return Result(sizes, tuple(rows))


def _rows(name: str, memory: Memory, config: BenchConfig, screen: Screen) -> list[Row]:
    """The speed of one M's training steps, and the compile time of a step."""
    batch, steps = config.sequences, config.sequence_length
    recorded = recordings(np.full(batch, steps + 1), memory.latent_size, memory.action_size)
    positions = (steps + 1) * np.arange(batch)[:, None] + np.arange(steps)
    chunk = Chunk(positions=jnp.asarray(positions, jnp.int32), first=jnp.asarray(True))
    state = init(memory, KEY)
    train, seconds = compiled(train_step, memory, state, recorded, chunk, KEY)

    def step(state: TrainState) -> TrainState:
        return train(state, recorded, chunk, KEY)[0]

    turns = training_products(memory)
    # Training uses JAX's default precision.
    works = {"ours": Training(step, state, batch * steps), "products": products(turns, "default")}
    torch = reference("torch_memory", screen)
    if torch is not None:
        mean = np.asarray(recorded.encoded.mean, np.float32)[np.append(positions, positions[:, -1:] + 1, axis=1)]
        action = np.asarray(recorded.action)[positions]
        opponent = torch.Opponent(mean, action, memory.config)
        works["torch"] = opponent.train
    rates = interleaved(name, works, config.seconds, screen)
    limit = rates["products"] * batch * steps / operations(turns)
    prefix = f"{name}," if ":" in name else f"{name}:"
    return [
        Row(name, rates["ours"], "steps/s", rates.get("torch"), "PyTorch, the same network and batch" if torch else ""),
        Row(f"{prefix} products", rates["ours"], "steps/s", limit, "matrix products of the same shapes"),
        Row(f"{prefix} compile time", seconds, "s"),
    ]


def training_products(memory: Memory) -> list[Turn]:
    """All matrix products of a training step: the forward pass, and the gradients of weights and inputs."""
    config = memory.config
    batch, hidden, gates, outputs = config.batch_size, config.hidden_size, 4 * config.hidden_size, memory.output_size
    all_steps = batch * config.sequence_length
    at_once = [
        (all_steps, memory.input_size, gates), (memory.input_size, all_steps, gates),
        (hidden, all_steps, gates),
        (all_steps, hidden, outputs), (all_steps, outputs, hidden), (hidden, all_steps, outputs),
    ]  # fmt: skip
    each_step = [(batch, hidden, gates)], [(batch, gates, hidden)]
    return [(1, at_once), *((config.sequence_length, shapes) for shapes in each_step)]
