"""Anti-aliased pictures by signed distances: a shape covers a pixel according to how far the pixel's centre lies inside
it.

Distances are in pixels, from pixel centres of a picture of `SIDE` × `SIDE`; x points right and y down.
"""

import jax.numpy as jnp

from wm_jax.types import Array

SIDE = 64
"""Width and height of a picture, in pixels."""


def columns() -> Array:
    """The x of the pixel centres: [1, SIDE]."""
    return jnp.arange(SIDE, dtype=jnp.float32)[None, :] + 0.5


def rows() -> Array:
    """The y of the pixel centres: [SIDE, 1]."""
    return jnp.arange(SIDE, dtype=jnp.float32)[:, None] + 0.5


def coverage(distance: Array) -> Array:
    """The share of each pixel covered by a shape, from signed distances [...] to its border, negative inside."""
    return jnp.clip(0.5 - distance, 0.0, 1.0)


def box(x: Array, y: Array, half_width: float, half_height: float) -> Array:
    """The share [SIDE, SIDE] covered by an upright rectangle centred on (x, y). Exact, because its sides follow the
    pixels."""
    along = jnp.clip(half_width + 0.5 - jnp.abs(columns() - x), 0.0, 1.0)
    across = jnp.clip(half_height + 0.5 - jnp.abs(rows() - y), 0.0, 1.0)
    return along * across


def capsule(x: Array, y: Array, dx: Array, dy: Array, radius: float) -> Array:
    """The share [SIDE, SIDE] covered by a line from (x, y) to (x + dx, y + dy), 2 `radius` thick, with round ends."""
    from_x, from_y = columns() - x, rows() - y
    place = jnp.clip((from_x * dx + from_y * dy) / (dx * dx + dy * dy), 0.0, 1.0)
    across_x, across_y = from_x - place * dx, from_y - place * dy
    return coverage(jnp.sqrt(across_x * across_x + across_y * across_y) - radius)


def disc(x: Array, y: Array, radius: float) -> Array:
    """The share [SIDE, SIDE] covered by a disc around (x, y)."""
    from_x, from_y = columns() - x, rows() - y
    return coverage(jnp.sqrt(from_x * from_x + from_y * from_y) - radius)


def paint(picture: Array, share: Array, colour: tuple[float, float, float]) -> Array:
    """`picture` [SIDE, SIDE, 3], painted with a shape of `colour` (0 to 255) that covers `share` [SIDE, SIDE]."""
    return picture + share[..., None] * (jnp.array(colour, jnp.float32)[None, None] - picture)
