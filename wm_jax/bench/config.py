"""The sizes that are measured."""

from dataclasses import dataclass
from typing import Literal

from wm_jax.errors import require_choice, require_range


@dataclass(frozen=True)
class BenchConfig:
    """What is measured. The defaults are the paper's Take Cover."""

    population: int = 64
    """P: candidates that dream."""
    rollouts: int = 16
    """R: dreams a candidate."""
    horizon: int = 0
    """Steps of a dream; 0 is the paper's 2,100 on an accelerator, and 128 on a CPU, which takes as long for each step."""
    life: int = 1000
    """Mean steps that a dream of a paper generation is taken to last, where CMA-ES is compared with it."""
    latent_size: int = 64
    """Z"""
    hidden_size: int = 512
    """H"""
    mixtures: int = 5
    """K"""
    precision: Literal["float32", "tensorfloat32", "bfloat16"] = "tensorfloat32"
    """Of the dream's matrix products and of those that are its limit."""
    frames: int = 100
    """Frames in a batch of V."""
    sequences: int = 100
    """Sequences in a batch of M."""
    sequence_length: int = 500
    """Steps of a sequence."""
    tasks: tuple[str, ...] = ("take_cover", "car_racing", "swing_up")
    """Whose games are played; the first makes the headline."""
    workers: int = 0
    """Processes that play; 0 for one for each core that may be used. V, M and C always drive with one for each core."""
    seconds: float = 20.0
    """How long each comparison is measured, about; it has three runs at least."""

    def __post_init__(self) -> None:
        require_range("population", self.population, 1)
        for name in ("rollouts", "life", "latent_size", "hidden_size", "mixtures", "frames", "sequences",
                     "sequence_length"):  # fmt: skip
            require_range(name.replace("_", "-"), getattr(self, name), 1)
        for name in ("horizon", "workers", "seconds"):
            require_range(name, getattr(self, name), 0)
        require_choice("precision", self.precision, ("float32", "tensorfloat32", "bfloat16"))
