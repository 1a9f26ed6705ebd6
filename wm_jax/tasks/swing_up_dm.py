"""Cart-pole swing-up of DeepMind's Control Suite. Its scores are comparable to PlaNet's and Dreamer's, not to those of
`swing_up`.

Written in JAX (`wm_jax.envs.swing_up`). At most 1000 points; an action lasts four physics steps, 0.04 s.
"""

from dataclasses import replace

from wm_jax.tasks import swing_up

TASK = replace(swing_up.TASK, name="swing_up_dm", jax_backends={"jax": lambda: swing_up.make("dm_control")})
