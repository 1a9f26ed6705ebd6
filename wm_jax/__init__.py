"""World models in JAX: an agent sees, dreams, and learns to act in its dream.

agent = wm_jax.load("take_cover")
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import gymnasium

from wm_jax.version import __version__

if TYPE_CHECKING:
    from wm_jax.agent import TrainedAgent

__all__ = ["__version__", "load"]

gymnasium.register(
    "wm_jax/Dream-v0", entry_point="wm_jax.agent:make_dream", vector_entry_point="wm_jax.agent:make_dreams"
)
gymnasium.register(
    "wm_jax/SwingUp-v0", entry_point="wm_jax.envs.swing_up:make", vector_entry_point="wm_jax.envs.swing_up:make_many"
)


def load(path: str | Path, task: str | Path | None = None, parts: Sequence[str | Path] = ()) -> "TrainedAgent":
    """Load the agent in a run's folder or a bundle (see `wm_jax.agent.load`)."""
    # Worker processes import this package, so it must not import JAX at module level.
    from wm_jax.agent import load

    return load(path, task, parts)
