"""No search, for actors without weights, such as planners. The stage plays the actor's dreams, so that the report can
compare its dream score with the actual one."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from wm_jax.actors import protocol as actors
from wm_jax.dream import Dream
from wm_jax.errors import UserError
from wm_jax.search.protocol import SEARCHES, Dreams, Search, SearchConfig
from wm_jax.types import Array, Key, Metrics, Params, State
from wm_jax.worlds import Actor


@SEARCHES.register
@dataclass(frozen=True)
class NoSearchConfig(SearchConfig):
    """No search, for actors without weights."""

    kind: Literal["none"] = "none"

    def build(self, actor: Actor, dream: Dream, generations: int, mesh: Mesh | None = None) -> "NoSearch":
        """The search of one generation that changes nothing. Raises `UserError` if the actor has weights, or for more
        generations."""
        if size := actors.size(actor):
            raise UserError(f"search.kind is 'none' but the actor ({actor.words}) has {size:,} weights to find; choose "
                            "another search, or an actor without weights")  # fmt: skip
        if generations != 1:
            raise UserError(f"search.kind is 'none' but evolve.generations is {generations:,}: nothing to repeat; "
                            "set evolve.generations to 1, and rounds.generations to 0")  # fmt: skip
        return NoSearch(actor)


@dataclass(frozen=True)
class NoSearch(Search):
    """A search whose state is the number of generations and whose candidate has no weights."""

    watch: ClassVar[str] = "weights"

    actor: Actor

    @property
    def words(self) -> str:
        """Description of a generation."""
        return "no search"

    @property
    def shapes(self) -> dict[str, list[int]]:
        """Nothing."""
        return {}

    @property
    def dream_steps(self) -> int:
        """No dreams."""
        return 0

    def bytes_at_rest(self) -> int:
        """Negligible."""
        return 0

    def bytes_at_work(self, devices: int) -> int:
        """Negligible."""
        return 0

    def init(self, key: Key, begin: Params | None = None, starts: State | None = None) -> Array:
        """Number of generations so far."""
        return jnp.int32(0)

    def iterate(self, state: Array, dreams: Dreams, first: Array | int, key: Key, count: int) -> tuple[Array, Metrics]:
        """Changes nothing."""
        return state + count, {"weights": jnp.zeros(count, jnp.int32)}

    def candidate(self, state: Array) -> Params:
        """No weights."""
        return self.actor.init(jax.random.key(0))

    def vital(self, state: Array) -> Any:
        """The part of the state that must be finite for it to be saved."""
        return state
