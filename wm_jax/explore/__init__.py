"""What is done differently while collecting: one file each, registered by their settings' `kind`."""

from wm_jax.explore.protocol import EXPLORERS, Explorer, ExplorerConfig, Goal

__all__ = ["EXPLORERS", "Explorer", "ExplorerConfig", "Goal"]
