"""`gymnasium.make("wm_jax/Dream-v0", run=…)`: the dream of a run's folder or of a bundle, for any Gymnasium client."""

from pathlib import Path
from typing import Literal

from wm_jax.dream import DreamEnv, DreamVectorEnv
from wm_jax.pipeline.bundle import load

RenderMode = Literal["rgb_array"] | None


def make(run: str | Path, render_mode: RenderMode = None) -> DreamEnv:
    """One dream. Raises `UserError` where `run` is neither a finished run nor a whole bundle."""
    bundle = load(Path(run))
    models, params = bundle.models, bundle.params
    return DreamEnv(models.dream, params.memory, bundle.starts, models.vision, params.vision, render_mode)


def make_vector(num_envs: int, run: str | Path, render_mode: RenderMode = None) -> DreamVectorEnv:
    """`num_envs` dreams in one compiled step. Raises `UserError` as `make` does."""
    bundle = load(Path(run))
    models, params = bundle.models, bundle.params
    return DreamVectorEnv(
        num_envs, models.dream, params.memory, bundle.starts, models.vision, params.vision, render_mode
    )
