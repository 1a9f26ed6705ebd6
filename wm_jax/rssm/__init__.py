"""The recurrent state-space model (RSSM) of PlaNet and Dreamer; loss, training and learner are separate modules."""

from wm_jax.rssm.config import RSSMConfig
from wm_jax.rssm.model import RSSM, RSSMState

__all__ = ["RSSM", "RSSMConfig", "RSSMState"]
