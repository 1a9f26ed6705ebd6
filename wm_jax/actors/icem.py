"""iCEM (arXiv 2008.06389): the cross-entropy method with few sequences per decision, which are correlated in time and
reused between iterations and decisions."""

from dataclasses import dataclass
from typing import Literal

from wm_jax.actors.cem import CEMConfig
from wm_jax.actors.protocol import ACTORS


@ACTORS.register
@dataclass(frozen=True)
class ICEMConfig(CEMConfig):
    """`CEMConfig` with iCEM's settings. Differences from the authors' code: where the horizon moves on, the mean's last
    action becomes 0 instead of a copy of the one before, and that of a kept elite is drawn around 0; the first decision
    of an episode has elites of zeros instead of none."""

    kind: Literal["icem"] = "icem"  # type: ignore[assignment]
    """Name of this part."""
    horizon: int = 30
    iterations: int = 3
    candidates: int = 40
    shrink: float = 1.25
    elites: int = 10
    kept: float = 0.3
    deviation: float = 0.5
    colour: float = 3.0
    momentum: float = 0.1
    warm_start: bool = True
    execute: Literal["mean", "best"] = "best"
