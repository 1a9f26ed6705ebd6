"""Settings of V."""

from dataclasses import dataclass, field

from wm_jax.errors import require_range
from wm_jax.optimizers import OptimizerConfig


@dataclass(frozen=True)
class VisionConfig:
    """V's size, loss and training. The defaults are the paper's Car Racing (Take Cover: `latent_size` 64)."""

    latent_size: int = 32
    """Z: size of the latent vector z."""
    width: int = 32
    """Channels of the encoder's first layer; all other layers scale with it."""
    kl_floor: float = 0.5
    """Free bits in nats per latent dimension: a frame's KL divergence below kl_floor * Z adds no cost."""
    motion_weight: float = 0.0
    """Extra loss weight of moving pixels: the error of a pixel that changed by d (0 to 1) since the previous frame is
    weighted by 1 + motion_weight * d. 0 is the paper's loss. It makes V learn small moving objects, such as Take
    Cover's fireballs, first."""
    batch_size: int = 100
    """Frames per training batch."""
    steps: int = 100_000
    """Training batches. 100,000 are one epoch of the paper's 10,000 rollouts; 0: V keeps its initial weights."""
    later_steps: int = 0
    """Training batches in each round after the first; 0: V and its encodings of old frames stay the same."""
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(learning_rate=1e-4))
    """Settings of Adam."""

    def __post_init__(self) -> None:
        require_range("world.vision.latent_size", self.latent_size, 1, 65536)
        require_range("world.vision.width", self.width, 1, 65536)
        require_range("world.vision.kl_floor", self.kl_floor, 0.0)
        require_range("world.vision.motion_weight", self.motion_weight, 0.0, 1e6)
        require_range("world.vision.batch_size", self.batch_size, 1, 2**20)
        require_range("world.vision.steps", self.steps, 0)
        require_range("world.vision.later_steps", self.later_steps, 0)
        self.optimizer.check("world.vision.optimizer")
