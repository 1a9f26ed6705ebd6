"""The settings of the RSSM, and those of the systems that made it known."""

from dataclasses import dataclass, field
from typing import Literal

from wm_jax.errors import UserError, require_choice, require_range
from wm_jax.optimizers import OptimizerConfig


@dataclass(frozen=True)
class RSSMConfig:
    """The RSSM's networks, loss and training. The defaults are DreamerV3's smallest, size1m (arXiv 2301.04104)."""

    deterministic_size: int = 512
    """Numbers of the deterministic state, the GRU's."""
    latent: Literal["gaussian", "categorical"] = "categorical"
    """What the stochastic state is drawn from: independent normals, as in PlaNet and DreamerV1, or categorical variables,
    as in DreamerV2 and V3."""
    variables: int = 32
    """Stochastic variables."""
    classes: int = 4
    """With categorical: values of each variable."""
    unimix: float = 0.01
    """With categorical: share of a uniform distribution in every probability."""
    narrowest: float = 0.1
    """With gaussian: least standard deviation."""
    hidden_size: int = 64
    """Units of the layers around the GRU, and of those that prior and posterior are told from."""
    prior_layers: int = 2
    """Hidden layers of the prior."""
    head_size: int = 64
    """Units of the heads' hidden layers."""
    head_layers: int = 1
    """Hidden layers of the heads of reward, end and, where the model follows V's latents, z."""
    width: int = 4
    """Channels of the first convolution, where the model sees frames; all others are multiples of it, as in V."""
    blocks: int = 8
    """Parts that the GRU's state is cut into; each has weights of its own, and all read the same inputs: deterministic and
    stochastic state and action, through a layer each (V3). 1: a GRU that reads stochastic state and action through one
    layer."""
    normalize: bool = True
    """Whether hidden layers are scaled to a root mean square of 1 before their activation (RMSNorm)."""
    activation: Literal["relu", "elu", "silu"] = "silu"
    """Of hidden layers."""
    predict_end: bool = False
    """Whether the model predicts the end of the episode."""
    reward_loss: Literal["squared", "two_hot"] = "two_hot"
    """What the reward is learned by: half its squared error, or the cross-entropy of a distribution over 255 values that
    lie ever farther apart (symexp two-hot)."""
    image_weight: float = 1.0
    """Weight of what is seen: of pixels in [0, 1] the squared error, summed; of V's z half of it, in units of V's own
    variances."""
    motion_weight: float = 0.0
    """Where the model sees frames, how much more a pixel's error weighs if it went from black to white since the frame
    before, in proportion for smaller changes; 0 is the papers' loss. Small moving things are learnt first."""
    reward_weight: float = 1.0
    """Weight of the reward."""
    end_weight: float = 1.0
    """Weight of the end."""
    prior_weight: float = 1.0
    """Weight of the KL divergence by which the prior learns from the posterior."""
    posterior_weight: float = 0.1
    """Weight of the same divergence by which the posterior is kept near the prior. Both at w are a KL with weight w."""
    free_nats: float = 1.0
    """A step's KL divergence below this costs nothing."""
    batch_size: int = 16
    """Sequences in a training step."""
    sequence_length: int = 64
    """Frames of a sequence."""
    reconstructed: int = 0
    """Observations of a training step from which the decoder learns, drawn anew in each step; 0 is all of them, as in the
    papers. The loss has the same expectation, and the decoder is most of a step's work on a CPU."""
    steps: int = 5000
    """Training steps; 0 leaves the model as it begins."""
    later_steps: int = 500
    """Training steps in each round after the first, unless there is a `train_ratio`."""
    train_ratio: float = 0.0
    """Frames that a later round trains on for each frame that it has recorded, as often as it comes; its steps follow from
    that. 0: `later_steps` says."""
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(learning_rate=4e-5, warm_up=1000, clip=0.3, clip_by="array")
    )
    """Adam and its schedule."""

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
            raise UserError(f"{name}deterministic_size is {self.deterministic_size}, which {name}blocks, {self.blocks}, "
                            "does not divide; change either")  # fmt: skip


PLANET = RSSMConfig(
    deterministic_size=200, latent="gaussian", variables=30, hidden_size=200, prior_layers=1, head_size=200, head_layers=2,
    width=32, blocks=1, normalize=False, activation="relu", reward_loss="squared", image_weight=0.5, reward_weight=10.0,
    posterior_weight=1.0, free_nats=3.0, batch_size=50, sequence_length=50,
    optimizer=OptimizerConfig(learning_rate=1e-3, clip=1000.0, clip_by="norm"),
)  # fmt: skip
"""PlaNet's (arXiv 1811.04551)."""
DREAMER_V1 = RSSMConfig(
    deterministic_size=200, latent="gaussian", variables=30, hidden_size=200, prior_layers=1, head_size=400, head_layers=2,
    width=32, blocks=1, normalize=False, activation="elu", reward_loss="squared", image_weight=0.5,
    posterior_weight=1.0, free_nats=3.0, batch_size=50, sequence_length=50,
    optimizer=OptimizerConfig(learning_rate=6e-4, clip=100.0, clip_by="norm"),
)  # fmt: skip
"""Of DreamerV1 (arXiv 1912.01603), whose free nats are taken from the mean over a batch; here from every step."""
DREAMER_V2 = RSSMConfig(
    deterministic_size=600, variables=32, classes=32, unimix=0.0, hidden_size=600, prior_layers=1, head_size=400,
    head_layers=4, width=48, blocks=1, normalize=False, activation="elu", reward_loss="squared", image_weight=0.5,
    prior_weight=0.8, posterior_weight=0.2, free_nats=0.0, batch_size=50, sequence_length=50,
    optimizer=OptimizerConfig(learning_rate=2e-4, clip=100.0, clip_by="norm"),
)  # fmt: skip
"""Of DreamerV2 (arXiv 2010.02193), but for the layer norm in its GRU."""
SIZE1M = RSSMConfig()
"""DreamerV3's size1m."""
SIZE12M = RSSMConfig(
    deterministic_size=2048, hidden_size=256, variables=32, classes=16, head_size=256, width=16
)  # fmt: skip
"""DreamerV3's size12m."""
