"""What the rest must know about an environment: one file a task, each defining `TASK`."""

from wm_jax.tasks.calls import FRAME_SHAPE, GameDied
from wm_jax.tasks.task import Act, PolicySettings, Pool, ScriptedPolicy, Task, load_task

__all__ = ["FRAME_SHAPE", "Act", "GameDied", "PolicySettings", "Pool", "ScriptedPolicy", "Task", "load_task"]
