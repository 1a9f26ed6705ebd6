"""Training a part of a world model: the trainer (`Learner`), its data, and its reports."""

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
    """All recordings, and which episodes are for training and which are held out."""

    store: EpisodeStore
    """The recorded frames, actions and rewards, on disk."""
    training: np.ndarray
    """Numbers of the episodes to train on."""
    held_out: np.ndarray
    """Numbers of the held-out episodes."""
    recorded: Observations | None
    """Every frame as encoded by the world model; None for learners that read frames."""
    trained: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    """Numbers of episodes that were trained on, in this round or an earlier one: from each round as many as are held
    out. They are reported on beside the held-out ones."""


@dataclass(frozen=True)
class Report:
    """The quality of a learner's model."""

    numbers: dict[str, float | None]
    """Metrics by name (`types.HELD_OUT`, `types.TRAINED`); None if there is too little data."""
    frames: np.ndarray | None = None
    """[n, 64, 64, 3] uint8: held-out frames to show, if the model can reconstruct them."""
    drawn: Any = None
    """[n, 64, 64, 3] in [0, 1]: the model's reconstructions of them."""


@dataclass(frozen=True)
class Learner(ABC):
    """Trains one part of a world model's weights: the entry of its name in `WorldModel.learners`. Hashable."""

    model: Any
    """The model that it trains: hashable, with pure functions of the weights, including `init`, and a `config` that has
    `steps`, `later_steps` and `batch_size`."""

    title: ClassVar[str]
    """Its name on the screen."""
    settings: ClassVar[str]
    """Prefix of its settings' names: "world.vision."; "world." for all settings of the world model."""
    watch: ClassVar[str]
    """The metric shown beside the progress bar."""
    reads: ClassVar[Literal["frames", "observations"]] = "observations"
    """frames: reads recorded frames from disk; observations: reads the model's encoded frames on the device. Learners
    that read frames are trained first, because `encode` may depend on them."""
    unit: ClassVar[str] = "frames"
    """Unit of its progress."""
    average: ClassVar[int] = 20
    """Metrics are logged as means over this many steps."""
    remedy: ClassVar[str] = "lower its learning rate and run it again with --redo"
    """What a user can do if its numbers are not finite."""
    curves: ClassVar[tuple[Curve, ...]] = ()
    """Charts that a report draws of its metrics."""

    @property
    def steps(self) -> int:
        """Steps of the first training; 0 leaves the weights unchanged."""
        return self.model.config.steps

    @property
    def later_steps(self) -> int:
        """Steps of the training in each later round."""
        return self.model.config.later_steps

    def steps_after(self, frames: int) -> int:
        """Steps of the training in a later round that has recorded this many frames."""
        return self.later_steps

    @property
    def batch_size(self) -> int:
        """Rows of a batch, which all devices split evenly."""
        return self.model.config.batch_size

    @property
    def units(self) -> int:
        """Units in one step."""
        return self.batch_size

    def with_steps(self, steps: int) -> Self:
        """The same training with this many steps, over which its learning rate falls."""
        return replace(self, model=replace(self.model, config=replace(self.model.config, steps=steps)))

    def init(self, key: Key) -> Params:
        """Fresh weights."""
        return self.model.init(key)

    @abstractmethod
    def start(self, params: Params, mesh: Mesh) -> Any:
        """The training's initial state on the devices of `mesh`; its attribute `params` has the weights. `params`
        itself is not changed."""

    @abstractmethod
    def advance(
        self, data: TrainingData, seed: int, begun: int, key: Key, mesh: Mesh
    ) -> Callable[[Any], tuple[Any, Metrics]]:
        """A function that does steps `begun`, `begun` + 1, …, one in each call: state → (state, metrics). A step
        depends only on the data, the seed, the key and its number, so that a resumed training gives the same bits."""

    def trace(self, recorded: Observations, mesh: Mesh) -> Traced | None:
        """The training step, traced for the devices of `mesh`, which need not be present; `recorded` has the shapes of
        all encoded frames. None: the learner is left out of compilation for a target."""
        return None

    def report_every(self, data: TrainingData) -> int:
        """Steps between two reports."""
        return max(1, self.steps)

    def reporter(self, data: TrainingData) -> Callable[[Params, Key], Report]:
        """A function that reports the quality of weights."""
        return lambda params, key: Report({})

    def bytes_in_training(self, params: int) -> int:
        """Approximate device memory for training this many weights: weights, gradients and Adam's two moments."""
        return 4 * FLOAT * params

    def flop(self, params: int) -> int:
        """Approximate floating-point operations of a training step of this many weights: two for each weight and unit,
        and twice as many for the gradient."""
        return 3 * 2 * params * self.units


def spread(count: int, wanted: int) -> np.ndarray:
    """At most `wanted` numbers, evenly spread over 0 … count − 1."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).astype(int)) if count else np.zeros(0, int)
