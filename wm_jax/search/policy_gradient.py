"""PPO (`wm_jax.search.ppo`) with noise that the search sets: C's action is drawn around what it would do, u being its
outputs before their tanh,

    x ~ N(u, noise^2),   action = tanh(x),

and the noise is the same everywhere and falls in the course of the search.
"""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp

from wm_jax.errors import require_range
from wm_jax.search.ppo import PPOConfig
from wm_jax.search.protocol import SEARCHES
from wm_jax.types import Array


@SEARCHES.register
@dataclass(frozen=True)
class PolicyGradientConfig(PPOConfig):
    """PPO with falling noise, for a C of tens of thousands of weights (`actor.kind` mlp)."""

    kind: Literal["policy_gradient"] = "policy_gradient"  # type: ignore[assignment]
    """The name of this part."""
    noise: float = 1.0
    """Standard deviation of x in the first generation."""
    final_noise: float = 0.2
    """Standard deviation of x in the last generation; from the one to the other it falls by the same share each time. C is
    to be good at what it does without noise, and with much of it no action but the largest ones can be relied upon."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range("search.noise", self.noise, 1e-6, 1e3)
        require_range("search.final_noise", self.final_noise, 1e-6, self.noise)

    @property
    def sets_noise(self) -> bool:
        """It does."""
        return True

    def noise_in(self, generation: Array | int, generations: int) -> Array:
        """[]: the standard deviation of x in a generation, of so many."""
        fall = jnp.float32(self.final_noise / self.noise)
        return self.noise * fall ** (jnp.asarray(generation, jnp.float32) / max(generations - 1, 1))
