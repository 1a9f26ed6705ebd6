"""Curiosity: a controller that collects where the world model is poor (the paper's section 5).

The world model's loss on actual transitions teaches it how badly it will predict (`Outcome.surprise`). A controller of its
own is searched for in the dream, as C is, with that for a reward; it collects some of the next round's episodes.
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
    """A controller that seeks what the world model predicts badly."""

    kind: Literal["curiosity"] = "curiosity"
    action_noise: float = 0.0
    """Standard deviation of the Gaussian noise on C's actions, and on those of the controller that seeks."""
    reward: str = "surprise"
    """What it seeks, a rule of `dream.reward`: surprise, the world model's loss (the paper); excess_surprise, that less the
    entropy which the world model foresees, so that chance nobody can predict is not sought."""
    share: float = 0.5
    """Share of a round's episodes that it collects; C collects the others."""
    generations: int = 300
    """Generations that it is searched for in each round but the last; all else about the search is C's."""

    def __post_init__(self) -> None:
        require_range("explorer.action_noise", self.action_noise, 0.0)
        require_choice("explorer.reward", self.reward, REWARDS.names())
        require_range("explorer.share", self.share, 0.0, 1.0)
        require_range("explorer.generations", self.generations, 1, 2**30)

    @property
    def goal(self) -> Goal:
        """To be surprised."""
        return Goal(self.reward, self.generations, self.share)

    def build(self, action_size: int) -> Noise:
        """The noise on actions of so many numbers."""
        return NoiseConfig(action_noise=self.action_noise).build(action_size)
