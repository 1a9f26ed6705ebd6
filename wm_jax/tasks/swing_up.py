"""Cart-pole swing-up of the paper's section 5, in the author's standard: swing the pole up and balance it, from pixels.

Written in JAX (`wm_jax.envs.swing_up`). At most 1000 points, one for each physics step in the best state. An action
lasts four physics steps, 0.04 s.
"""

from typing import TYPE_CHECKING, Literal

from wm_jax.tasks.task import Task

if TYPE_CHECKING:
    from wm_jax.envs.swing_up import SwingUp

REPEAT = 4
PHYSICS_STEPS = 1000
MAX_STEPS = PHYSICS_STEPS // REPEAT


def make(standard: Literal["author", "dm_control"], repeat: int = REPEAT) -> "SwingUp":
    """The environment in one of its standards."""
    # Imported here: worker processes read tasks and have no JAX.
    from wm_jax.envs.swing_up import SwingUp

    return SwingUp(standard, repeat)


TASK = Task(
    name="swing_up",
    action_size=1,
    max_steps=MAX_STEPS,
    jax_backends={"jax": lambda: make("author")},
    actions=((-1.0,), (0.0,), (1.0,)),
    mirror=(-1.0,),
    frames_per_second=25,
    typical_length=MAX_STEPS,
    typical_frame_bytes=900,
)
