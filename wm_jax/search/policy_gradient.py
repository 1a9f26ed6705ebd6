"""PPO (`wm_jax.search.ppo`) with noise that the search sets. With u the outputs of C before the tanh, the action is
sampled as

    x ~ N(u, noise^2),   action = tanh(x),

and the noise is the same in every state and falls during the search.
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
    """PPO with falling noise, for a C with tens of thousands of weights (`actor.kind` mlp)."""

    kind: Literal["policy_gradient"] = "policy_gradient"  # type: ignore[assignment]
    """Name of this part."""
    noise: float = 1.0
    """Standard deviation of the Gaussian noise on C's outputs before tanh, in the first generation."""
    final_noise: float = 0.2
    """Standard deviation of this noise in the last generation; it falls by the same factor each generation. Keep it
    low: C is deployed without noise, and under strong noise only the largest actions have a reliable effect."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range("search.noise", self.noise, 1e-6, 1e3)
        require_range("search.final_noise", self.final_noise, 1e-6, self.noise)

    @property
    def sets_noise(self) -> bool:
        """True: the search sets the noise."""
        return True

    def noise_in(self, generation: Array | int, generations: int) -> Array:
        """[]: the standard deviation of x in a generation."""
        fall = jnp.float32(self.final_noise / self.noise)
        return self.noise * fall ** (jnp.asarray(generation, jnp.float32) / max(generations - 1, 1))
