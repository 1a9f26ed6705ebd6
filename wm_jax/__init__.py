"""World Models (Ha & Schmidhuber, 2018) in JAX: V sees, M dreams, C learns to act inside the dream."""

import gymnasium

__version__ = "0.2.0.dev0"

gymnasium.register(
    "wm_jax/Dream-v0",
    entry_point="wm_jax.pipeline.dream_env:make",
    vector_entry_point="wm_jax.pipeline.dream_env:make_vector",
)
