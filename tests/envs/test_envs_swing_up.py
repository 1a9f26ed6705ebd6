"""Swing-up's physics against independent integrators, its rewards against the published ones, its pictures by counting."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from wm_jax.envs.swing_up import (
    PHYSICS_STEPS,
    POLE,
    POLE_COLOUR,
    POLE_RADIUS,
    SECONDS,
    STANDARDS,
    Author,
    CartPole,
    ControlSuite,
    SwingUp,
    SwingUpState,
)
from wm_jax.errors import UserError
from wm_jax.tasks import load_task

pytestmark = pytest.mark.usefixtures("quick_compilation")

AUTHOR, CONTROL = Author(), ControlSuite()


def body(*numbers):
    return CartPole(*(jnp.float32(number) for number in numbers))


def numbers(pole):
    return np.array([pole.x, pole.speed, pole.angle, pole.spin])


def lagrange(mass, pole, centre, inertia, gravity, force, spin_sign):
    """ẍ and θ̈ of a pole whose centre of mass is at x + spin_sign · c sin θ, c cos θ: from the mass matrix, by NumPy."""

    def accelerations(speed, angle, spin, drag, hinge):
        coupling = spin_sign * pole * centre * np.cos(angle)
        matrix = [[mass + pole, coupling], [coupling, inertia + pole * centre**2]]
        pushes = [
            force - drag * speed + spin_sign * pole * centre * spin**2 * np.sin(angle),
            pole * gravity * centre * np.sin(angle) - hinge * spin,
        ]
        return np.linalg.solve(matrix, pushes)

    return accelerations


def test_the_authors_accelerations_are_those_of_a_uniform_rod_on_a_cart():
    rng = np.random.default_rng(0)
    for speed, angle, spin, action in rng.normal(size=(20, 4)) * [1, 3, 5, 0.5]:
        found = AUTHOR.accelerations(body(0, speed, angle, spin), jnp.float32(action))
        # A rod of length l: centre at l / 2, inertia m l² / 12. Its angle grows against the cart's direction.
        expected = lagrange(0.5, 0.5, 0.3, 0.5 * 0.6**2 / 12, 9.82, 10 * action, -1)(speed, angle, spin, 0.1, 0)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_the_authors_step_moves_positions_by_the_old_velocities():
    before = body(0.3, -1.0, 2.0, 1.5)
    x, angle = AUTHOR.accelerations(before, jnp.float32(0.7))
    after = AUTHOR.advance(before, jnp.float32(0.7))
    expected = [0.3 - 1.0 * SECONDS, -1.0 + x * SECONDS, 2.0 + 1.5 * SECONDS, 1.5 + angle * SECONDS]
    np.testing.assert_allclose(numbers(after), expected, rtol=1e-6)


def test_the_control_suites_trajectory_is_scipys():
    cylinder, ends = np.pi * 0.045**2, 4 / 3 * np.pi * 0.045**3
    middle, caps = 0.1 * cylinder / (cylinder + ends), 0.1 * ends / (cylinder + ends)
    # MuJoCo: a capsule's inertia is that of its cylinder and of two halves of a ball.
    inertia = middle * (1 / 12 + 0.045**2 / 4) + caps * (0.4 * 0.045**2 + 0.25 + 0.375 * 0.045)
    action = 0.05

    def slope(time, state):
        _, speed, angle, spin = state
        accelerations = lagrange(1.0, 0.1, 0.5, inertia, 9.81, 10 * action, 1)
        pull, turn = accelerations(speed, angle, spin, 5e-4, 2e-6)
        return [speed, pull, spin, turn]

    begin = [0.0, 0.1, np.pi - 0.4, 0.3]
    expected = solve_ivp(slope, (0, 2.0), begin, rtol=1e-9, atol=1e-9).y[:, -1]
    advance = jax.jit(
        lambda pole: jax.lax.fori_loop(0, 200, lambda _, pole: CONTROL.advance(pole, jnp.float32(action)), pole)
    )
    np.testing.assert_allclose(numbers(advance(body(*begin))), expected, atol=2e-4)


def energy(standard, pole, centre, inertia):
    """Of a body, in joules."""
    speed, angle, spin = pole.speed, pole.angle, pole.spin
    sign = -1 if standard == AUTHOR else 1
    moving = 0.5 * (standard.cart + standard.pole) * speed**2 + 0.5 * inertia * spin**2
    coupled = sign * standard.pole * centre * speed * spin * np.cos(angle)
    return float(moving + coupled + standard.pole * standard.gravity * centre * np.cos(angle))


@pytest.mark.parametrize(
    ("name", "centre", "inertia", "drift"),
    # Explicit Euler feeds energy to a swinging pole, Runge-Kutta does not; friction only takes.
    [("author", 0.3, 0.5 * 0.6**2 / 3, (0.05, 1.5)), ("dm_control", 0.5, CONTROL.inertia, (-1e-3, 1e-4))],
)
def test_energy_drifts_as_the_integrator_lets_it(name, centre, inertia, drift):
    standard = STANDARDS[name]
    before = body(0.0, 0.0, 2.0, 0.0)
    swing = jax.jit(
        lambda pole: jax.lax.fori_loop(0, 300, lambda _, pole: standard.advance(pole, jnp.float32(0)), pole)
    )
    change = energy(standard, swing(before), centre, inertia) - energy(standard, before, centre, inertia)
    assert drift[0] <= change <= drift[1]


def test_the_rails_stop_pushes_back_and_never_pulls():
    def pull(x, speed):
        return float(CONTROL.accelerations(body(x, speed, np.pi, 0), jnp.float32(0))[0])

    assert pull(1.79, 0.0) == pytest.approx(0, abs=1e-5)
    assert pull(1.9, 0.0) < -10 and pull(-1.9, 0.0) > 10
    assert pull(1.81, -5.0) == pytest.approx(0, abs=0.01)


def test_rewards():
    def published(x, angle, spin, action):
        gaussian = partial(lambda value, margin: np.exp(-0.5 * (value / margin * np.sqrt(-2 * np.log(0.1))) ** 2))
        upright = (np.cos(angle) + 1) / 2
        return (
            upright * (1 + gaussian(x, 2)) / 2 * (4 + max(0, 1 - action**2)) / 5 * (1 + gaussian(spin, 5)) / 2
        )  # dm_control/suite/cartpole.py, Balance._get_reward

    rng = np.random.default_rng(0)
    for x, angle, spin, action in rng.uniform(-1, 1, (20, 4)) * [1.8, np.pi, 8, 1]:
        state = body(x, 0, angle, spin)
        found = float(CONTROL.reward(state, jnp.float32(action)))
        assert found == pytest.approx(published(x, angle, spin, action), rel=1e-4, abs=1e-6)
        author = (np.cos(angle) + 1) / 2 * np.cos(np.pi / 2 * x / 2.4)
        assert float(AUTHOR.reward(state, jnp.float32(action))) == pytest.approx(author, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("standard", ["author", "dm_control"])
def test_an_action_repeated_is_the_action_several_times(standard):
    once, four = SwingUp(standard, 1), SwingUp(standard, 4)
    state, _ = once.reset(jax.random.key(0))
    action, key = jnp.array([0.8], jnp.float32), jax.random.key(1)
    singly, rewards = state, []
    for _ in range(4):
        singly, _, reward, _, _ = once.step(singly, action, key)
        rewards.append(reward)
    together, observation, reward, terminated, truncated = four.step(state, action, key)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), together, singly)
    np.testing.assert_allclose(reward, sum(rewards), rtol=1e-5)
    np.testing.assert_allclose(observation[2:4], [np.cos(singly.body.angle), np.sin(singly.body.angle)], atol=1e-5)
    assert not terminated and not truncated


def test_the_author_ends_where_the_cart_leaves_and_the_suite_never_before_its_time():
    key, push = jax.random.key(0), jnp.array([1.0], jnp.float32)
    for environment, ends in ((SwingUp("author", 4), True), (SwingUp("dm_control", 4), False)):
        state = SwingUpState(body(2.39, 5, np.pi, 0), jnp.int32(0))
        after, _, reward, terminated, truncated = environment.step(state, push, key)
        assert bool(terminated) is ends and not truncated
        # What would come after an end neither moves nor counts.
        assert int(after.step) == (1 if ends else 4)
        assert abs(float(reward)) < 1
        late = SwingUpState(body(0, 0, np.pi, 0), jnp.int32(998))
        after, _, _, terminated, truncated = environment.step(late, push, key)
        assert truncated and not terminated and int(after.step) == 1000


def test_a_picture_shows_a_pole_of_two_pixels_that_points_where_the_angle_says():
    environment = SwingUp()

    def drawn(angle, x=0.0):
        frame = environment.frame(SwingUpState(body(x, 0, angle, 0), jnp.int32(0)))
        assert frame.dtype == jnp.uint8
        return np.asarray(frame)

    # Half way along the pole, across it: two pixels of its colour, and nothing else.
    up, row = drawn(0.0), round(32 - POLE / 2)
    assert (up[row] == POLE_COLOUR).all(axis=-1).sum() == 2 * POLE_RADIUS
    assert len(np.unique(up[row], axis=0)) == 2
    right = drawn(np.pi / 2)
    assert (right[:, round(32 + POLE / 2)] == POLE_COLOUR).all(axis=-1).sum() == 2 * POLE_RADIUS
    np.testing.assert_array_equal(drawn(0.7)[:, ::-1], drawn(-0.7))
    # A picture tells less than a pixel's width.
    assert (drawn(np.pi, 0.01) != drawn(np.pi)).any()


def test_impossible_settings_are_refused():
    with pytest.raises(UserError, match="standard"):
        SwingUp("other")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="repeat"):
        SwingUp("author", 0)


@pytest.mark.parametrize(("name", "repeat"), [("swing_up", 4), ("swing_up_dm", 4), ("swing_up_planet", 8)])
def test_an_episode_of_each_task_has_a_thousand_physics_steps(name: str, repeat: int) -> None:
    task = load_task(name)
    environment = task.environment(None)
    assert isinstance(environment, SwingUp)
    assert (environment.repeat, task.max_steps * environment.repeat) == (repeat, PHYSICS_STEPS)
    assert environment.frames_per_second == task.frames_per_second
