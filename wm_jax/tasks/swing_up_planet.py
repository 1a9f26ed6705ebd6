"""Cart-pole swing-up of DeepMind's Control Suite as in PlaNet (arXiv 1811.04551, table 2): `swing_up_dm` with actions
that last eight physics steps.

At most 1000 points, in 125 actions.
"""

from dataclasses import replace

from wm_jax.tasks import swing_up

REPEAT = 8
STEPS = swing_up.PHYSICS_STEPS // REPEAT
TASK = replace(
    swing_up.TASK,
    name="swing_up_planet",
    jax_backends={"jax": lambda: swing_up.make("dm_control", REPEAT)},
    max_steps=STEPS,
    typical_length=STEPS,
    frames_per_second=12,
)
