"""V: images per second of training and encoding, compared with the same network in PyTorch."""

from functools import partial

import jax
import numpy as np

from wm_jax.bench.config import BenchConfig
from wm_jax.bench.references import reference
from wm_jax.bench.table import Result, Row
from wm_jax.bench.timing import Training, compiled, interleaved
from wm_jax.pipeline.progress import Screen
from wm_jax.tasks import FRAME_SHAPE
from wm_jax.vision import Vision, VisionConfig
from wm_jax.vision.train import TrainState, init, train_step

KEY = jax.random.key(0)
AGAINST = "PyTorch, the same network and batch"


def measure(config: BenchConfig, screen: Screen) -> Result:
    """Headline: images per second of whole training steps."""
    model = Vision(VisionConfig(latent_size=config.latent_size, batch_size=config.frames))
    pixels = np.random.default_rng(0).integers(0, 256, (config.frames, *FRAME_SHAPE), np.uint8)
    frames, state = jax.device_put(pixels), init(model, jax.random.clone(KEY))
    params = model.init(jax.random.clone(KEY))
    train, seconds = compiled(train_step, model, state, frames, KEY)
    encode, _ = compiled(jax.jit(partial(Vision.encode, model)), params, frames)

    def step(state: TrainState) -> TrainState:
        return train(state, frames, KEY)[0]

    works = {
        "vision": Training(step, state, config.frames),
        "vision: encoding": Training(lambda _: encode(params, frames), None, config.frames),
    }
    torch = reference("torch_vision", screen)
    if torch is not None:
        opponent = torch.Opponent(pixels, config.latent_size, model.config.kl_floor)
        works |= {"torch vision": opponent.train, "torch vision: encoding": opponent.encode}
    rates = interleaved("vision", works, config.seconds, screen)
    rows = [
        Row(name, rates[name], "images/s", rates.get(f"torch {name}"), AGAINST if torch else "")
        for name in ("vision", "vision: encoding")
    ]
    return Result(
        f"batches of {config.frames}, Z {config.latent_size}", (*rows, Row("vision: compile time", seconds, "s"))
    )
