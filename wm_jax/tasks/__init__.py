"""Descriptions of environments: one file for each task, which defines `TASK`."""

from wm_jax.tasks.calls import FRAME_SHAPE, GameDied
from wm_jax.tasks.task import Act, PolicySettings, Pool, ScriptedPolicy, Task, load_task, resize

__all__ = ["FRAME_SHAPE", "Act", "GameDied", "PolicySettings", "Pool", "ScriptedPolicy", "Task", "load_task", "resize"]
