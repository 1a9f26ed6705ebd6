"""Curiosity: a controller that collects where the world model is poor (the paper's section 5).

The world model learns to predict its own loss on actual transitions (`Outcome.surprise`). A second controller is
searched for in the dream, like C, with that prediction as its reward. It collects some of the next round's episodes.
"""

from dataclasses import dataclass
from typing import Literal

from wm_jax.dream import REWARDS
from wm_jax.errors import require_choice, require_range
from wm_jax.explore.noise import Noise, NoiseConfig
from wm_jax.explore.protocol import EXPLORERS, ExplorerConfig, Goal


@EXPLORERS.register
@dataclass(frozen=True)
class CuriosityConfig(ExplorerConfig):
    """A second controller that seeks transitions which the world model predicts badly."""

    kind: Literal["curiosity"] = "curiosity"
    action_noise: float = 0.0
    """Standard deviation of the Gaussian noise on the actions of C and of the curious controller."""
    reward: str = "surprise"
    """Reward of the curious controller, a rule of `dream.reward`. surprise: the world model's predicted loss (the
    paper); excess_surprise: that minus the entropy of the prediction, so that inherent randomness gives no reward."""
    share: float = 0.5
    """Share of a round's episodes that the curious controller collects; C collects the others."""
    generations: int = 300
    """Generations of its search, in each round but the last; the other settings of the search are those of C."""

    def __post_init__(self) -> None:
        require_range("explorer.action_noise", self.action_noise, 0.0)
        require_choice("explorer.reward", self.reward, REWARDS.names())
        require_range("explorer.share", self.share, 0.0, 1.0)
        require_range("explorer.generations", self.generations, 1, 2**30)

    @property
    def goal(self) -> Goal:
        """The goal of the curious controller's search."""
        return Goal(self.reward, self.generations, self.share)

    def build(self, action_size: int) -> Noise:
        """The noise for actions with this many numbers."""
        return NoiseConfig(action_noise=self.action_noise).build(action_size)
