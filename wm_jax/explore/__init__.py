"""What is done differently while collecting: one file each, registered by their settings' `kind`."""

from wm_jax.explore.protocol import EXPLORERS, Explorer, ExplorerConfig

__all__ = ["EXPLORERS", "Explorer", "ExplorerConfig"]
