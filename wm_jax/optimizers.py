"""Optimisers of the learners: Adam with a learning-rate schedule and gradient clipping; and the JAX defaults that other
libraries rely on."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp

from wm_jax.errors import require_choice, require_range

if TYPE_CHECKING:
    import optax


@dataclass(frozen=True)
class OptimizerConfig:
    """Settings of Adam."""

    learning_rate: float = 1e-3
    """Learning rate at the end of the warm-up."""
    schedule: Literal["constant", "exponential", "cosine"] = "constant"
    """constant: no change; exponential: `decay` per step towards `final_learning_rate`; cosine: down to it over all
    steps."""
    final_learning_rate: float = 1e-5
    """Final learning rate of the exponential and cosine schedules."""
    decay: float = 0.99999
    """Factor per step of the exponential schedule."""
    warm_up: int = 0
    """Steps of linear warm-up of the learning rate, at most half of a training's. Every round's training warms up."""
    clip: float | None = None
    """Threshold of gradient clipping, in the sense of `clip_by`; None: no clipping."""
    clip_by: Literal["element", "norm", "array"] = "element"
    """element: clip each number to [-clip, clip]; norm: scale the whole gradient down to the norm `clip`; array: scale
    the gradient of each weight array down to `clip` times the norm of the weights (adaptive clipping, as in
    DreamerV3)."""

    def check(self, name: str) -> None:
        """Raise `UserError` if a value is out of range; `name`: full name of this group, "world.vision.optimizer"."""
        require_range(f"{name}.learning_rate", self.learning_rate, 1e-9, 10.0)
        require_choice(f"{name}.schedule", self.schedule, ("constant", "exponential", "cosine"))
        require_range(f"{name}.final_learning_rate", self.final_learning_rate, 0.0, self.learning_rate)
        require_range(f"{name}.decay", self.decay, 0.0, 1.0)
        require_range(f"{name}.warm_up", self.warm_up, 0)
        if self.clip is not None:
            require_range(f"{name}.clip", self.clip, 1e-9)
        require_choice(f"{name}.clip_by", self.clip_by, ("element", "norm", "array"))


def make(config: OptimizerConfig, steps: int) -> "optax.GradientTransformation":
    """The optimiser for a training of `steps` steps (the cosine's length)."""
    # Imported here: acting and dreaming need no optimiser and start faster without it.
    import optax

    fall = config.learning_rate - config.final_learning_rate
    schedules = {
        "constant": lambda: optax.constant_schedule(config.learning_rate),
        "exponential": lambda: lambda step: fall * config.decay**step + config.final_learning_rate,
        "cosine": lambda: optax.cosine_decay_schedule(
            config.learning_rate, max(steps, 1), alpha=config.final_learning_rate / config.learning_rate
        ),
    }
    schedule = schedules[config.schedule]()
    warm_up = min(config.warm_up, steps // 2)
    rise = optax.linear_schedule(1 / max(warm_up, 1), 1.0, max(warm_up - 1, 0))
    adam = optax.adam(schedule if not warm_up else lambda step: rise(step) * schedule(step))
    if config.clip is None:
        return single_precision(adam)
    clips = {"element": optax.clip, "norm": optax.clip_by_global_norm, "array": _clip_arrays}
    return single_precision(optax.chain(clips[config.clip_by](config.clip), adam))


def _clip_arrays(share: float) -> "optax.GradientTransformation":
    import optax

    def clip(gradient: Any, weights: Any) -> Any:
        # The floor lets weights that start at 0, such as a zero-initialised head, move too.
        most = jnp.float32(share) * jnp.maximum(jnp.linalg.norm(weights), jnp.float32(1e-3))
        return gradient * jnp.minimum(most / jnp.maximum(jnp.linalg.norm(gradient), jnp.float32(1e-30)), 1)

    return optax.stateless_with_tree_map(clip)


@contextmanager
def jax_defaults(precision: str | None = None) -> Iterator[None]:
    """Use JAX's default types and broadcasting in the block: other libraries rely on them. `precision`: the precision of
    matrix products in the block; None: JAX's default."""
    with jax.default_matmul_precision(precision), jax.enable_x64(False), jax.numpy_rank_promotion("allow"):
        yield


def single_precision(optimizer: "optax.GradientTransformation") -> "optax.GradientTransformation":
    """The same optimiser with its schedule and bias corrections in float32, even with JAX's 64-bit types enabled."""
    import optax

    single = jax.enable_x64(False)
    return optax.GradientTransformation(single(optimizer.init), single(optimizer.update))
