"""Sizes for the benchmarks."""

from dataclasses import dataclass
from typing import Literal

from wm_jax.errors import require_choice, require_range


@dataclass(frozen=True)
class BenchConfig:
    """Sizes for the benchmarks. The defaults are the paper's for Take Cover."""

    population: int = 64
    """P: number of candidates that dream."""
    rollouts: int = 16
    """R: dreams for each candidate."""
    horizon: int = 0
    """Steps of a dream. 0 means the paper's 2,100 on an accelerator and 128 on a CPU, where every step takes equally
    long."""
    life: int = 1000
    """Assumed mean length, in steps, of a dream in the paper; used to compare CMA-ES with a whole generation."""
    latent_size: int = 64
    """Z: latent size."""
    hidden_size: int = 512
    """H: hidden size."""
    mixtures: int = 5
    """K: mixture components."""
    precision: Literal["float32", "tensorfloat32", "bfloat16"] = "tensorfloat32"
    """Precision of the dream's matrix products, and of those that set its limit."""
    frames: int = 100
    """Frames in a batch of V."""
    sequences: int = 100
    """Sequences in a batch of M."""
    sequence_length: int = 500
    """Steps of a sequence."""
    tasks: tuple[str, ...] = ("take_cover", "car_racing", "swing_up")
    """Tasks whose games are played; the first one gives the headline."""
    workers: int = 0
    """Processes that play; 0 means one for each available core. With V, M and C acting, it is always one for each
    core."""
    seconds: float = 20.0
    """Approximate seconds for each comparison; it has at least three runs."""

    def __post_init__(self) -> None:
        require_range("population", self.population, 1)
        for name in ("rollouts", "life", "latent_size", "hidden_size", "mixtures", "frames", "sequences",
                     "sequence_length"):  # fmt: skip
            require_range(name.replace("_", "-"), getattr(self, name), 1)
        for name in ("horizon", "workers", "seconds"):
            require_range(name, getattr(self, name), 0)
        require_choice("precision", self.precision, ("float32", "tensorfloat32", "bfloat16"))
