"""Stand-ins for M whose dreams can be worked out by hand, and recordings to start them from."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from wm_jax.types import Latents, LatentStats, MemoryState, Mixture, Prediction


@dataclass(frozen=True)
class Line:
    """A point on a line that each action moves by `push`: z' = z + push * action + N(0, noise^2), reward 1 - |z|.

    h holds the z and c the action that it was fed last; the dream ends after a step from beyond `wall`.
    """

    push: float = 0.5
    noise: float = 0.01
    wall: float = float("inf")
    predicts: bool = True
    latent_size: int = 1
    action_size: int = 1
    done_weight: float = 1.0

    def initial_state(self, batch_shape=()):
        return MemoryState(h=jnp.zeros((*batch_shape, self.latent_size)), c=jnp.zeros((*batch_shape, self.action_size)))

    def advance(self, params, state, z, action, restart):
        return MemoryState(h=z, c=action)

    def step(self, params, state, z, action, restart):
        state = self.advance(params, state, z, action, restart)
        mean = (z + self.push * action)[..., None]
        mixture = Mixture(jnp.zeros_like(mean), mean, jnp.full_like(mean, jnp.log(self.noise)))
        reward = 1 - jnp.abs(z[..., 0])
        done_logit = jnp.abs(z[..., 0]) - self.wall
        return state, Prediction(mixture, reward if self.predicts else None, done_logit if self.predicts else None)


def recordings(lengths=(4, 6), latent_size=1, action_size=1, log_var=-20.0):
    """Episodes whose frame n has a posterior mean of n / 16 (exact in float16) everywhere, and the action -n / 16."""
    frames = sum(lengths)
    number = np.arange(frames, dtype=np.float32)[:, None] / 16
    mean = np.repeat(number, latent_size, axis=1).astype(np.float16)
    return Latents(
        stats=LatentStats(jnp.asarray(mean), jnp.full((frames, latent_size), log_var, jnp.float16)),
        action=jnp.asarray(np.repeat(-number, action_size, axis=1)),
        reward=jnp.zeros(frames),
        start=jnp.asarray(np.cumsum((0, *lengths[:-1])), jnp.int32),
        length=jnp.asarray(lengths, jnp.int32),
        terminated=jnp.ones(len(lengths), bool),
    )
