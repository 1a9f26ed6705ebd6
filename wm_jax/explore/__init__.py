"""How an actor's actions change while it collects: one file per explorer, registered by the `kind` of its settings."""

from wm_jax.explore.protocol import EXPLORERS, Explorer, ExplorerConfig, Goal

__all__ = ["EXPLORERS", "Explorer", "ExplorerConfig", "Goal"]
