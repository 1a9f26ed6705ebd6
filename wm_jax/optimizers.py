"""How learners are optimised: Adam with a learning-rate schedule and clipped gradients; and what others' libraries count
on."""

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
    """Adam's settings."""

    learning_rate: float = 1e-3
    """Learning rate of the first step after `warm_up`."""
    schedule: Literal["constant", "exponential", "cosine"] = "constant"
    """constant; exponential: falls by `decay` a step towards `final_learning_rate`; cosine: falls to it over all steps."""
    final_learning_rate: float = 1e-5
    """Where exponential and cosine end."""
    decay: float = 0.99999
    """Factor per step of the exponential schedule."""
    warm_up: int = 0
    """Steps over which the learning rate rises to the schedule's, evenly."""
    clip: float | None = None
    """How far the gradient is clipped, as `clip_by` says; None leaves it as it is."""
    clip_by: Literal["element", "norm", "array"] = "element"
    """element: each number is clipped to [-clip, clip]; norm: the whole gradient is scaled down to this norm; array: the
    gradient of each array of weights to this share of the weights' own norm (adaptive clipping, as in DreamerV3)."""

    def check(self, name: str) -> None:
        """Raise `UserError` where a value is impossible; `name`: the setting these belong to, "world.vision.optimizer"."""
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
    # Imported here: acting and dreaming need no optimiser, and start faster without.
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
    rise = optax.linear_schedule(1 / max(config.warm_up, 1), 1.0, max(config.warm_up - 1, 0))
    adam = optax.adam(schedule if not config.warm_up else lambda step: rise(step) * schedule(step))
    if config.clip is None:
        return single_precision(adam)
    clips = {"element": optax.clip, "norm": optax.clip_by_global_norm, "array": _clip_arrays}
    return single_precision(optax.chain(clips[config.clip_by](config.clip), adam))


def _clip_arrays(share: float) -> "optax.GradientTransformation":
    import optax

    def clip(gradient: Any, weights: Any) -> Any:
        # Weights that are 0, as those of a head that begins so, may move too.
        most = jnp.float32(share) * jnp.maximum(jnp.linalg.norm(weights), jnp.float32(1e-3))
        return gradient * jnp.minimum(most / jnp.maximum(jnp.linalg.norm(gradient), jnp.float32(1e-30)), 1)

    return optax.stateless_with_tree_map(clip)


@contextmanager
def as_meant(precision: str | None = None) -> Iterator[None]:
    """What others' libraries count on: JAX's default types and broadcasting, whatever is switched on for the rest, and
    matrix products of this precision, where one is given."""
    with jax.default_matmul_precision(precision), jax.enable_x64(False), jax.numpy_rank_promotion("allow"):
        yield


def single_precision(optimizer: "optax.GradientTransformation") -> "optax.GradientTransformation":
    """The same optimiser, whose schedule and corrections are float32 where JAX's 64-bit types are switched on, too."""
    import optax

    single = jax.enable_x64(False)
    return optax.GradientTransformation(single(optimizer.init), single(optimizer.update))
