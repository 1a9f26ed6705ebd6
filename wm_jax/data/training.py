"""What trains a part of a world model (`Learner`), what it is given, and what it reports."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
from jax.sharding import Mesh
from jax.stages import Traced

from wm_jax.data.episodes import EpisodeStore
from wm_jax.types import FLOAT, Curve, Key, Metrics, Observations, Params


@dataclass(frozen=True)
class TrainingData:
    """All that is recorded, and which of the episodes are for what."""

    store: EpisodeStore
    """The recorded frames, actions and rewards, on disk."""
    training: np.ndarray
    """Numbers of the episodes to train on."""
    held_out: np.ndarray
    """Numbers of the episodes that nothing trains on."""
    recorded: Observations | None
    """Every frame as the world model encodes it; None for learners that read frames."""
    trained: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    """Numbers of as many episodes that are trained on, in this round or one before it, as are held out, of each round as
    many: to report on beside the held-out ones."""


@dataclass(frozen=True)
class Report:
    """How good a learner's model is."""

    numbers: dict[str, float | None]
    """By name (`types.HELD_OUT`, `types.TRAINED`); None where there is too little to tell."""
    frames: np.ndarray | None = None
    """[n, 64, 64, 3] uint8: held-out frames to show, where the model can draw what it makes of them."""
    drawn: Any = None
    """[n, 64, 64, 3] in [0, 1]: what it makes of them."""


@dataclass(frozen=True)
class Learner(ABC):
    """What trains one part of a world model's weights, the entry of its name in `WorldModel.learners`. Hashable."""

    model: Any
    """The recipe whose weights it trains: hashable, with pure functions of them, `init` among these, and a `config` that
    has `steps`, `later_steps` and `batch_size`."""

    title: ClassVar[str]
    """What the screen calls it."""
    settings: ClassVar[str]
    """How the names of its settings begin: "world.vision."; "world." for all of the world model's."""
    watch: ClassVar[str]
    """The metric that is shown beside the progress bar."""
    reads: ClassVar[Literal["frames", "observations"]] = "observations"
    """frames: recorded frames, from the disk; observations: what the model's `encode` made of them, on the device. Those
    that read frames are trained first, as `encode` may depend on them."""
    unit: ClassVar[str] = "frames"
    """What is counted while it trains."""
    average: ClassVar[int] = 20
    """Metrics are logged as means over so many steps."""
    remedy: ClassVar[str] = "lower its learning rate and run it again with --redo"
    """What a user can do where its numbers are not finite."""
    curves: ClassVar[tuple[Curve, ...]] = ()
    """What a report draws of its metrics."""

    @property
    def steps(self) -> int:
        """Steps of a training; 0 leaves the weights as they are."""
        return self.model.config.steps

    @property
    def later_steps(self) -> int:
        """Steps of the training of each later round."""
        return self.model.config.later_steps

    def steps_after(self, frames: int) -> int:
        """Steps of the training of a later round that has recorded so many frames."""
        return self.later_steps

    @property
    def batch_size(self) -> int:
        """Rows of a batch, which all devices share evenly."""
        return self.model.config.batch_size

    @property
    def units(self) -> int:
        """Units in a step."""
        return self.batch_size

    def lasting(self, steps: int) -> Self:
        """The same training with so many steps, over which its learning rate falls."""
        return replace(self, model=replace(self.model, config=replace(self.model.config, steps=steps)))

    def init(self, key: Key) -> Params:
        """Fresh weights."""
        return self.model.init(key)

    @abstractmethod
    def start(self, params: Params, mesh: Mesh) -> Any:
        """The training's state, which has the weights as `params`, before the first step of a training that begins with
        `params`; on the devices of `mesh`. `params` itself is left alone."""

    @abstractmethod
    def advance(
        self, data: TrainingData, seed: int, begun: int, key: Key, mesh: Mesh
    ) -> Callable[[Any], tuple[Any, Metrics]]:
        """What does steps `begun`, `begun` + 1, … one a call: state → (state, metrics). A step depends on the data, the
        seed, the key and its number alone, so that a training that was stopped goes on with the same bits."""

    def trace(self, recorded: Observations, mesh: Mesh) -> Traced | None:
        """The training step, traced for the devices of `mesh`, which need not be here; `recorded` has the shapes of every
        encoded frame. None: an accelerator's account leaves the learner out."""
        return None

    def report_every(self, data: TrainingData) -> int:
        """Steps between two reports."""
        return max(1, self.steps)

    def reporter(self, data: TrainingData) -> Callable[[Params, Key], Report]:
        """What reports how good weights are."""
        return lambda params, key: Report({})

    def bytes_in_training(self, params: int) -> int:
        """Memory that training so many weights takes of a device, about: with a gradient and Adam's two moments of each."""
        return 4 * FLOAT * params

    def flop(self, params: int) -> int:
        """Floating-point operations of a training step of so many weights, about: two for each weight and unit, and twice
        as many for the gradient."""
        return 3 * 2 * params * self.units


def spread(count: int, wanted: int) -> np.ndarray:
    """At most `wanted` numbers spread evenly over 0 … count − 1."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).astype(int)) if count else np.zeros(0, int)
