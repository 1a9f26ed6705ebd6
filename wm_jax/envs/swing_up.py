"""Cart-pole swing-up: the pole hangs; push the cart to swing it up and balance it. At most 1000 points.

Two standards, whose scores are not comparable:

- `author`: the paper's author's (estool's CartPoleSwingUp, after Deep PILCO). A uniform rod of mass m and length l on a
  cart of mass M with friction b, θ = 0 upright,

      ẍ = (−2 m l θ̇² sin θ + 3 m g sin θ cos θ + 4 (F − b ẋ)) / (4 (M + m) − 3 m cos²θ)
      θ̈ = (−3 m l θ̇² sin θ cos θ + 6 (M + m) g sin θ + 6 (F − b ẋ) cos θ) / (4 l (M + m) − 3 m l cos²θ)

  by Euler's explicit method. An episode ends when x leaves [−2.4, 2.4].
- `dm_control`: the cartpole of DeepMind's Control Suite (Tassa et al., 2018), task swingup. A capsule on a cart, by the
  fourth-order Runge-Kutta method. Beyond ±1.8 the rail's soft stops push back, like the reference acceleration of a
  limit in MuJoCo. No episode ends before its 1000 steps.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct

from wm_jax.envs import pictures
from wm_jax.envs.gymnasium_face import JaxEnv, JaxVectorEnv, RenderMode
from wm_jax.envs.protocol import JaxEnvironment, Script, ScriptSettings
from wm_jax.envs.scripts import Constant, Held, Uniform
from wm_jax.errors import require_choice, require_range
from wm_jax.types import Action, Array, Key

PHYSICS_STEPS = 1000
"""Physics steps of an episode, 0.01 s each."""
SECONDS = 0.01
UPRIGHT = 0.95
"""The pole is upright if cos θ exceeds this."""

# The picture, in pixels. The pole is drawn longer than to scale; otherwise it would be seven pixels long.
RAIL_Y, RAIL_HALF, POLE, POLE_RADIUS = 32.0, 16.0, 22.0, 1.0
BACKGROUND, RAIL, CART, POLE_COLOUR, TIP = (236, 240, 244), (120, 128, 140), (40, 48, 64), (214, 72, 40), (24, 110, 200)


@struct.dataclass
class CartPole:
    """A cart with a pole on it. θ is 0 if the pole is upright."""

    x: Array
    """[] metres from the middle"""
    speed: Array
    """[] metres per second"""
    angle: Array
    """[] radians"""
    spin: Array
    """[] radians per second"""


def hanging(key: Key, deviation: float) -> CartPole:
    """The pole hangs at rest in the middle, with noise N(0, deviation) on each number."""
    x, speed, angle, spin = deviation * jax.random.normal(key, (4,), jnp.float32)
    return CartPole(x, speed, math.pi + angle, spin)


@struct.dataclass
class SwingUpState:
    """An episode's state."""

    body: CartPole
    step: Array
    """[] int32: number of physics steps done."""


@dataclass(frozen=True)
class Author:
    """The paper's author's physics, start, reward and end."""

    limit = 2.4
    gravity, cart, pole, length, friction, force = 9.82, 0.5, 0.5, 0.6, 0.1, 10.0

    def start(self, key: Key) -> CartPole:
        """N((0, 0, π, 0), 0.2)"""
        return hanging(key, 0.2)

    def accelerations(self, body: CartPole, action: Array) -> tuple[Array, Array]:
        """ẍ and θ̈ under `action` [] in [-1, 1]."""
        m, length, mass, g = self.pole, self.length, self.cart + self.pole, self.gravity
        sin, cos = jnp.sin(body.angle), jnp.cos(body.angle)
        push = self.force * action - self.friction * body.speed
        whirl = m * length * body.spin**2 * sin
        x = (-2 * whirl + 3 * m * g * sin * cos + 4 * push) / (4 * mass - 3 * m * cos**2)
        angle = (-3 * whirl * cos + 6 * mass * g * sin + 6 * push * cos) / (length * (4 * mass - 3 * m * cos**2))
        return x, angle

    def advance(self, body: CartPole, action: Array) -> CartPole:
        """Euler's explicit step: positions move with the old velocities."""
        x, angle = self.accelerations(body, action)
        return CartPole(body.x + SECONDS * body.speed, body.speed + SECONDS * x,
                        body.angle + SECONDS * body.spin, body.spin + SECONDS * angle)  # fmt: skip

    def reward(self, body: CartPole, action: Array) -> Array:
        """(cos θ + 1) / 2 · cos(π / 2 · x / 2.4)"""
        return (jnp.cos(body.angle) + 1) / 2 * jnp.cos(body.x / self.limit * (math.pi / 2))

    def ended(self, body: CartPole) -> Array:
        """Whether the cart has left the rail."""
        return jnp.abs(body.x) > self.limit


@dataclass(frozen=True)
class ControlSuite:
    """The Control Suite's physics, start and reward."""

    limit = 1.8
    gravity, cart, pole, centre, force = 9.81, 1.0, 0.1, 0.5, 10.0
    slide_damping, hinge_damping = 5e-4, 2e-6
    radius, length = 0.045, 1.0
    """Radius and length of the capsule."""
    stop_seconds, stop_strength = 0.08, 0.95
    """The rail's soft stops: MuJoCo's `solreflimit` time constant, damping ratio 1, and the largest impedance of
    `solimp`."""

    @property
    def inertia(self) -> float:
        """Moment of inertia of the pole around its hinge, kg m²: a capsule's around its centre, plus the parallel-axis
        term."""
        r, length = self.radius, self.length
        cylinder, ends = math.pi * r**2 * length, 4 / 3 * math.pi * r**3
        middle, caps = (self.pole * part / (cylinder + ends) for part in (cylinder, ends))
        around_centre = middle * (length**2 / 12 + r**2 / 4) + caps * (
            2 * r**2 / 5 + length**2 / 4 + 3 * length * r / 8
        )
        return around_centre + self.pole * self.centre**2

    def start(self, key: Key) -> CartPole:
        """N((0, 0, π, 0), 0.01)"""
        return hanging(key, 0.01)

    def accelerations(self, body: CartPole, action: Array) -> tuple[Array, Array]:
        """ẍ and θ̈ under `action` [] in [-1, 1], by Lagrange's equations

        (M + m) ẍ + m c θ̈ cos θ = F − d ẋ + m c θ̇² sin θ,   m c ẍ cos θ + I θ̈ = m g c sin θ − e θ̇.
        """
        sin, cos, lever = jnp.sin(body.angle), jnp.cos(body.angle), self.pole * self.centre
        mass, inertia = self.cart + self.pole, self.inertia
        push = self.force * action - self.slide_damping * body.speed + lever * body.spin**2 * sin + self._stop(body)
        turn = lever * self.gravity * sin - self.hinge_damping * body.spin
        determinant = mass * inertia - (lever * cos) ** 2
        return (inertia * push - lever * cos * turn) / determinant, (mass * turn - lever * cos * push) / determinant

    def _stop(self, body: CartPole) -> Array:
        """The force of the stop if the cart is beyond it, else 0. It never pulls."""
        beyond = jnp.abs(body.x) - self.limit
        outward = body.speed * jnp.sign(body.x)
        damping, stiffness = (
            2 / (self.stop_strength * self.stop_seconds),
            (self.stop_strength * self.stop_seconds) ** -2,
        )
        push = (self.cart + self.pole) * (damping * outward + stiffness * beyond)
        return jnp.where(beyond > 0, -jnp.sign(body.x) * jnp.maximum(push, 0), 0)

    def advance(self, body: CartPole, action: Array) -> CartPole:
        """A fourth-order Runge-Kutta step."""

        def slope(body: CartPole) -> CartPole:
            x, angle = self.accelerations(body, action)
            return CartPole(body.speed, x, body.spin, angle)

        def moved(by: float, slope: CartPole) -> CartPole:
            return jax.tree.map(lambda value, change: value + by * change, body, slope)

        first = slope(body)
        second = slope(moved(SECONDS / 2, first))
        third = slope(moved(SECONDS / 2, second))
        fourth = slope(moved(SECONDS, third))
        mean = jax.tree.map(lambda a, b, c, d: (a + 2 * b + 2 * c + d) / 6, first, second, third, fourth)
        return moved(SECONDS, mean)

    def reward(self, body: CartPole, action: Array) -> Array:
        """A product of factors for an upright pole, a cart in the middle, little force and low speed."""
        upright = (jnp.cos(body.angle) + 1) / 2
        centred = (1 + tolerance(body.x, 2.0)) / 2
        effort = (4 + jnp.maximum(0, 1 - action**2)) / 5
        slow = (1 + tolerance(body.spin, 5.0)) / 2
        return upright * centred * effort * slow

    def ended(self, body: CartPole) -> Array:
        """Never."""
        return jnp.zeros_like(body.x, bool)


def tolerance(value: Array, margin: float) -> Array:
    """1 at 0, falling as a Gaussian to 0.1 at `margin` (the Control Suite's `rewards.tolerance`)."""
    return jnp.exp(-0.5 * (value * math.sqrt(-2 * math.log(0.1)) / margin) ** 2)


STANDARDS: dict[str, Author | ControlSuite] = {"author": Author(), "dm_control": ControlSuite()}


@dataclass(frozen=True)
class SwingUp(JaxEnvironment):
    """Swing-up in one of the two standards. Each action is taken for `repeat` physics steps, whose rewards add up."""

    standard: Literal["author", "dm_control"] = "author"
    repeat: int = 4

    def __post_init__(self) -> None:
        require_choice("standard", self.standard, list(STANDARDS))
        require_range("repeat", self.repeat, 1, PHYSICS_STEPS)

    @property
    def action_size(self) -> int:
        """A: 1, the force."""
        return 1

    @property
    def observation_size(self) -> int:
        """F: 5"""
        return 5

    @property
    def frames_per_second(self) -> int:
        """Actions in one second of the environment's own time, rounded."""
        return round(1 / (SECONDS * self.repeat))

    @property
    def scripts(self) -> Mapping[str, Callable[[ScriptSettings], Script]]:
        """random; held, which swings the pole further; stay."""
        return {
            "random": lambda settings: Uniform(1),
            "held": lambda settings: Held(1, settings.max_holds),
            "stay": lambda settings: Constant((0.0,)),
        }

    def reset(self, key: Key) -> tuple[SwingUpState, Array]:
        """The pole hangs."""
        state = SwingUpState(STANDARDS[self.standard].start(key), jnp.int32(0))
        return state, self._observed(state)

    def step(self, state: SwingUpState, action: Action, key: Key) -> tuple[SwingUpState, Array, Array, Array, Array]:
        """`repeat` physics steps; those after the episode's end change nothing. The key is not used."""
        standard, push = STANDARDS[self.standard], jnp.clip(action[0], -1.0, 1.0)

        def once(carry: tuple[SwingUpState, Array, Array], _: None) -> tuple[tuple[SwingUpState, Array, Array], None]:
            state, reward, over = carry
            body = standard.advance(state.body, push)
            following = SwingUpState(body, state.step + 1)
            reward = jnp.where(over, reward, reward + standard.reward(body, push))
            state = jax.tree.map(lambda old, new: jnp.where(over, old, new), state, following)
            return (state, reward, standard.ended(state.body) | (state.step >= PHYSICS_STEPS)), None

        begin = state, jnp.zeros((), jnp.float32), jnp.zeros((), bool)
        # A few unrolled steps become one kernel.
        (state, reward, _), _ = jax.lax.scan(once, begin, None, self.repeat, unroll=min(self.repeat, 8))
        terminated = standard.ended(state.body)
        return state, self._observed(state), reward, terminated, (state.step >= PHYSICS_STEPS) & ~terminated

    def measures(self, state: SwingUpState) -> dict[str, Array]:
        """upright: 1 if the pole stands, cos θ > 0.95. A pole that only spins is upright a tenth of the time and earns
        half of all points."""
        return {"upright": (jnp.cos(state.body.angle) > UPRIGHT).astype(jnp.float32)}

    def _observed(self, state: SwingUpState) -> Array:
        """[x, ẋ, cos θ, sin θ, θ̇]"""
        body = state.body
        return jnp.stack([body.x, body.speed, jnp.cos(body.angle), jnp.sin(body.angle), body.spin])

    def frame(self, state: SwingUpState) -> Array:
        """A cart on a rail, and the pole with a differently coloured tip. The ends of the rail mark the cart's
        limits."""
        body, limit = state.body, STANDARDS[self.standard].limit
        middle, y = jnp.float32(pictures.SIDE / 2), jnp.float32(RAIL_Y)
        x = middle + jnp.clip(body.x / limit, -1.5, 1.5) * RAIL_HALF
        dx, dy = POLE * jnp.sin(body.angle), -POLE * jnp.cos(body.angle)
        picture = jnp.broadcast_to(jnp.array(BACKGROUND, jnp.float32), (pictures.SIDE, pictures.SIDE, 3))
        for share, colour in (
            (pictures.box(middle, y, RAIL_HALF, 0.5), RAIL),
            (pictures.box(x, y, 4.0, 2.5), CART),
            (pictures.capsule(x, y, dx, dy, POLE_RADIUS), POLE_COLOUR),
            (pictures.disc(x + dx, y + dy, 2.0), TIP),
        ):
            picture = pictures.paint(picture, share, colour)
        return jnp.round(picture).astype(jnp.uint8)


def make(
    standard: Literal["author", "dm_control"] = "author", repeat: int = 4, render_mode: RenderMode = None
) -> JaxEnv:
    """`gymnasium.make("wm_jax/SwingUp-v0")`: the observation is [x, ẋ, cos θ, sin θ, θ̇]."""
    environment = SwingUp(standard, repeat)
    return JaxEnv(environment, environment.frames_per_second, render_mode)


def make_many(
    num_envs: int = 1,
    standard: Literal["author", "dm_control"] = "author",
    repeat: int = 4,
    render_mode: RenderMode = None,
) -> JaxVectorEnv:
    """`gymnasium.make_vec("wm_jax/SwingUp-v0", …)`"""
    environment = SwingUp(standard, repeat)
    return JaxVectorEnv(num_envs, environment, environment.frames_per_second, render_mode)
