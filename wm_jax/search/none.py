"""No search: for actors without weights, as planners are. The stage plays the actor's dreams, so that its score there
stands beside the actual one."""

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
    """Nothing is searched for."""

    kind: Literal["none"] = "none"

    def build(self, actor: Actor, dream: Dream, generations: int, mesh: Mesh | None = None) -> "NoSearch":
        """The one generation that changes nothing. Raises `UserError` where the actor has weights, or for more of them."""
        if size := actors.size(actor):
            raise UserError(f"search.kind is 'none' but the actor ({actor.words}) has {size:,} weights to be found; choose "
                            "another search, or an actor without")  # fmt: skip
        if generations != 1:
            raise UserError(f"search.kind is 'none' and evolve.generations {generations:,}: there is nothing to repeat; "
                            "set evolve.generations to 1, and rounds.generations to 0")  # fmt: skip
        return NoSearch(actor)


@dataclass(frozen=True)
class NoSearch(Search):
    """A search whose state is a count, and whose candidate has no weights."""

    watch: ClassVar[str] = "weights"

    actor: Actor

    @property
    def words(self) -> str:
        """What a generation is."""
        return "no search"

    @property
    def shapes(self) -> dict[str, list[int]]:
        """There are none."""
        return {}

    @property
    def dream_steps(self) -> int:
        """None are dreamt to find it."""
        return 0

    def bytes_at_rest(self) -> int:
        """Nothing to speak of."""
        return 0

    def bytes_at_work(self, devices: int) -> int:
        """Nothing to speak of."""
        return 0

    def init(self, key: Key, begin: Params | None = None, starts: State | None = None) -> Array:
        """Generations so far."""
        return jnp.int32(0)

    def iterate(self, state: Array, dreams: Dreams, first: Array | int, key: Key, count: int) -> tuple[Array, Metrics]:
        """Nothing is changed."""
        return state + count, {"weights": jnp.zeros(count, jnp.int32)}

    def candidate(self, state: Array) -> Params:
        """No weights."""
        return self.actor.init(jax.random.key(0))

    def vital(self, state: Array) -> Any:
        """What must be finite."""
        return state
