"""Cart-pole swing-up as DeepMind's Control Suite has it: its scores stand beside PlaNet's and Dreamer's, and not beside
those of `swing_up`.

Written in JAX (`wm_jax.envs.swing_up`). At most 1000 points; an action is taken for four physics steps, 0.04 s.
"""

from dataclasses import replace

from wm_jax.tasks import swing_up

TASK = replace(swing_up.TASK, name="swing_up_dm", jax_backends={"jax": lambda: swing_up.make("dm_control")})
