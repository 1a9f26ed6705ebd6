"""What earlier versions left: settings as they wrote them of the probe experiment, and today's files made into such ones.

`format_1.json` holds, by search, the `config.json` and the settings of every stage's `stage.json` of runs that were made
before there was a format number, at commit e9f4188. The numbers of V's steps and of generations follow
the probe, which has fewer now. TASK stands for the path of the task's file.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from wm_jax.data.files import read_json, write_json
from wm_jax.data.weights import load_weights, save_weights

WRITTEN = Path(__file__).with_suffix(".json")


def written(search: str, task: str) -> dict[str, Any]:
    """{"config", "records"} of a run with this search."""
    return json.loads(WRITTEN.read_text().replace('"TASK"', json.dumps(task)))[search]


def make_run(run: Path, task: str) -> None:
    """Make a run of the probe experiment one of format 1."""
    old = written("cma_es", task)
    write_json(run / "config.json", old["config"])
    for folder, settings in old["records"].items():
        path = run / folder / "round-0" / "stage.json"
        record, status = read_json(path), path.stat()
        assert record.pop("format") == 2
        write_json(path, {**record, "settings": settings})
        # No younger than the films that show the result.
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    for name, entry in (("weights", "weights"), ("controllers", "weights"), ("means", "means")):
        path = run / "controller" / "round-0" / f"{name}.safetensors"
        tree, about = load_weights(path)
        save_weights(path, {entry: one_array(tree[entry])}, about)
    path = run / "latents" / "round-0" / "latents.safetensors"
    tree, about = load_weights(path)
    save_weights(path, {**tree.pop("encoded"), **tree}, about)


def make_bundle(path: Path, task: str) -> None:
    """Make a bundle of the probe experiment one of format 1."""
    tree, about = load_weights(path)
    starts = tree["starts"]
    frames = np.ones(len(starts["action"]), np.int32)
    old = {
        **tree["world"],
        "controller": {"weights": one_array(tree["actor"])},
        "starts": {**starts["encoded"], "action": starts["action"], "length": frames},
    }
    save_weights(path, old, {**about, "format": "wm-jax bundle 1", "config": written("cma_es", task)["config"]})


def one_array(layers: dict[str, dict[str, np.ndarray]]) -> np.ndarray:
    """A controller's weights, or those of several, as one array: of each layer its kernel, then its bias."""
    parts = []
    for _, layer in sorted(layers.items()):
        several = layer["bias"].shape[:-1]
        parts += [layer["kernel"].reshape(*several, -1), layer["bias"]]
    return np.concatenate(parts, axis=-1)
