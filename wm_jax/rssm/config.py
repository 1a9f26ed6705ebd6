"""Settings of the RSSM, and those of published systems."""

from dataclasses import dataclass, field
from typing import Literal

from wm_jax.errors import UserError, require_choice, require_range
from wm_jax.optimizers import OptimizerConfig


@dataclass(frozen=True)
class RSSMConfig:
    """The RSSM's networks, loss and training. The defaults are DreamerV3's smallest, size1m (arXiv 2301.04104)."""

    deterministic_size: int = 512
    """Numbers of the deterministic state, that of the GRU."""
    latent: Literal["gaussian", "categorical"] = "categorical"
    """Distribution of the stochastic state: independent normals, as in PlaNet and DreamerV1, or categorical variables,
    as in DreamerV2 and V3."""
    variables: int = 32
    """Number of stochastic variables."""
    classes: int = 4
    """With categorical: values of each variable."""
    unimix: float = 0.01
    """With categorical: share of a uniform distribution mixed into all probabilities."""
    narrowest: float = 0.1
    """With gaussian: lower bound of the standard deviation."""
    hidden_size: int = 64
    """Units of the layers around the GRU and of the hidden layers of prior and posterior."""
    prior_layers: int = 2
    """Hidden layers of the prior."""
    head_size: int = 64
    """Units of the hidden layers of the heads."""
    head_layers: int = 1
    """Hidden layers of the heads for reward, end and, if the model observes V's latents, z."""
    width: int = 4
    """Channels of the first convolution if the model observes frames; all other layers scale with it, as in V."""
    blocks: int = 8
    """Blocks of the GRU's state; each has its own weights, and all read the same inputs: deterministic and stochastic
    state and action, each through a layer (V3). 1: a GRU that reads stochastic state and action through one layer."""
    normalize: bool = True
    """Whether to scale hidden layers to a root mean square of 1 before their activation (RMSNorm)."""
    activation: Literal["relu", "elu", "silu"] = "silu"
    """Activation of hidden layers."""
    predict_end: bool = False
    """Whether the model predicts the end of an episode."""
    reward_loss: Literal["squared", "two_hot"] = "two_hot"
    """Loss of the reward. squared: half the squared error; two_hot: cross-entropy of a distribution over 255 values
    whose distances grow exponentially (symexp two-hot)."""
    image_weight: float = 1.0
    """Weight of the observation's error. Frames: the squared error of pixels in [0, 1], summed; V's latents: half the
    squared error divided by V's variance, summed."""
    motion_weight: float = 0.0
    """Extra loss weight of moving pixels, if the model observes frames: the error of a pixel that changed by d (0 to 1)
    since the previous frame is weighted by 1 + motion_weight * d. 0 is the papers' loss. It makes the model learn small
    moving objects first."""
    reward_weight: float = 1.0
    """Weight of the reward's loss."""
    end_weight: float = 1.0
    """Weight of the end's loss."""
    prior_weight: float = 1.0
    """Weight of the KL divergence whose gradient moves the prior towards the posterior."""
    posterior_weight: float = 0.1
    """Weight of the same divergence whose gradient keeps the posterior near the prior. If both are w, the gradient is
    that of a KL with weight w (and the reported loss counts it twice)."""
    free_nats: float = 1.0
    """A step's KL divergence below this adds no cost."""
    batch_size: int = 16
    """Sequences per training step."""
    sequence_length: int = 64
    """Frames per sequence."""
    reconstructed: int = 0
    """Observations per training step that the decoder learns from, drawn anew in each step; 0: all, as in the papers.
    The expected loss is the same, and the decoder is most of a step's work on a CPU."""
    steps: int = 5000
    """Training steps; 0: the model keeps its initial weights."""
    later_steps: int = 500
    """Training steps in each round after the first, unless there is a `train_ratio`."""
    train_ratio: float = 0.0
    """Replay ratio of later rounds: training frames per newly recorded frame. It sets the number of training steps.
    0: `later_steps` applies."""
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(learning_rate=4e-5, warm_up=1000, clip=0.3, clip_by="array")
    )
    """Settings of Adam."""

    def __post_init__(self) -> None:
        name = "world.rssm."
        for size in ("deterministic_size", "variables", "hidden_size", "head_size", "width", "blocks"):
            require_range(f"{name}{size}", getattr(self, size), 1, 65536)
        require_choice(f"{name}latent", self.latent, ("gaussian", "categorical"))
        require_range(f"{name}classes", self.classes, 2, 65536)
        require_range(f"{name}unimix", self.unimix, 0.0, 0.5)
        require_range(f"{name}narrowest", self.narrowest, 1e-6, 10.0)
        for layers in ("prior_layers", "head_layers"):
            require_range(f"{name}{layers}", getattr(self, layers), 0, 64)
        require_choice(f"{name}activation", self.activation, ("relu", "elu", "silu"))
        require_choice(f"{name}reward_loss", self.reward_loss, ("squared", "two_hot"))
        parts = "image", "motion", "reward", "end", "prior", "posterior"
        for weight in (*(f"{part}_weight" for part in parts), "free_nats"):
            require_range(f"{name}{weight}", getattr(self, weight), 0.0, 1e6)
        require_range(f"{name}batch_size", self.batch_size, 1, 2**20)
        require_range(f"{name}sequence_length", self.sequence_length, 2, 2**20)
        require_range(f"{name}reconstructed", self.reconstructed, 0, self.batch_size * self.sequence_length)
        require_range(f"{name}steps", self.steps, 0)
        require_range(f"{name}later_steps", self.later_steps, 0)
        require_range(f"{name}train_ratio", self.train_ratio, 0.0, 1e6)
        self.optimizer.check(f"{name}optimizer")
        if self.deterministic_size % self.blocks:
            raise UserError(f"{name}deterministic_size is {self.deterministic_size}, not a multiple of "
                            f"{name}blocks, {self.blocks}; change either")  # fmt: skip


PLANET = RSSMConfig(
    deterministic_size=200, latent="gaussian", variables=30, hidden_size=200, prior_layers=1, head_size=200, head_layers=2,
    width=32, blocks=1, normalize=False, activation="relu", reward_loss="squared", image_weight=0.5, reward_weight=10.0,
    posterior_weight=1.0, free_nats=3.0, batch_size=50, sequence_length=50,
    optimizer=OptimizerConfig(learning_rate=1e-3, clip=1000.0, clip_by="norm"),
)  # fmt: skip
"""Settings of PlaNet (arXiv 1811.04551)."""
DREAMER_V1 = RSSMConfig(
    deterministic_size=200, latent="gaussian", variables=30, hidden_size=200, prior_layers=1, head_size=400, head_layers=2,
    width=32, blocks=1, normalize=False, activation="elu", reward_loss="squared", image_weight=0.5,
    posterior_weight=1.0, free_nats=3.0, batch_size=50, sequence_length=50,
    optimizer=OptimizerConfig(learning_rate=6e-4, clip=100.0, clip_by="norm"),
)  # fmt: skip
"""Settings of DreamerV1 (arXiv 1912.01603). Its free nats apply to the mean over a batch; here they apply to every
step."""
DREAMER_V2 = RSSMConfig(
    deterministic_size=200, variables=32, classes=32, unimix=0.0, hidden_size=200, prior_layers=1, head_size=400,
    head_layers=4, width=48, blocks=1, normalize=False, activation="elu", reward_loss="squared", image_weight=0.5,
    prior_weight=0.8, posterior_weight=0.2, free_nats=1.0, batch_size=50, sequence_length=50,
    optimizer=OptimizerConfig(learning_rate=3e-4, clip=100.0, clip_by="norm"),
)  # fmt: skip
"""Settings of DreamerV2 (arXiv 2010.02193) for the Control Suite, as in its published code, without the layer norm in
its GRU. Its free nats apply to the mean over a batch; here they apply to every step."""
SIZE1M = RSSMConfig()
"""DreamerV3's size1m."""
SIZE12M = RSSMConfig(
    deterministic_size=2048, hidden_size=256, variables=32, classes=16, head_size=256, width=16
)  # fmt: skip
"""DreamerV3's size12m."""
