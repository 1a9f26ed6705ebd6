"""Machines to compile for that are not present: NVIDIA GPUs, and slices of TPUs.

XLA's compilers for both run on any processor, ahead of time, from a description of the machine (JAX's
`jax.experimental.topologies`). They report whether a program compiles, its memory and its collectives; not its speed.
"""

import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from wm_jax.errors import UserError
from wm_jax.parallel import AXIS

GIB = 2**30
CHIPS_OF_A_HOST = 4
"""TPU chips of one process."""


@dataclass(frozen=True)
class _GPU:
    """The facts that XLA's compiler needs about a GPU (its `GpuTargetConfigProto`)."""

    capability: tuple[int, int]
    cores: int
    """Streaming multiprocessors."""
    units: int
    """Arithmetic units of one multiprocessor."""
    gigahertz: float
    memory: int
    """Bytes of memory."""
    bandwidth: int
    """Bytes of memory transferred in a second."""
    cache: int
    """Bytes of the second-level cache."""
    shared: tuple[int, int]
    """Bytes of shared memory: of a multiprocessor; of a block that requests the maximum."""

    def text(self) -> str:
        """The description in XLA's text format."""
        facts = {
            "threads_per_block_limit": 1024, "threads_per_warp": 32, "threads_per_core_limit": 2048,
            "shared_memory_per_block": 48 * 1024, "shared_memory_per_core": self.shared[0],
            "shared_memory_per_block_optin": self.shared[1], "core_count": self.cores, "fpus_per_core": self.units,
            "block_dim_limit_x": 2**31 - 1, "block_dim_limit_y": 2**16 - 1, "block_dim_limit_z": 2**16 - 1,
            "memory_bandwidth": self.bandwidth, "l2_cache_size": self.cache, "clock_rate_ghz": self.gigahertz,
            "device_memory_size": self.memory, "registers_per_core_limit": 2**16, "registers_per_block_limit": 2**16,
        }  # fmt: skip
        major, minor = self.capability
        told = " ".join(f"{name}: {value}" for name, value in facts.items())
        capability = f"cuda_compute_capability {{ major: {major} minor: {minor} }}"
        return (
            f'gpu_device_info {{ {told} {capability} }} platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 }}'
        )


_GPUS = {
    "a100": _GPU((8, 0), 108, 64, 1.41, 85_100_068_864, 2_039_040_000_000, 40 * 2**20, (164 * 1024, 163 * 1024)),
    "h100": _GPU((9, 0), 132, 128, 1.98, 84_942_979_072, 3_352_320_000_000, 50 * 2**20, (228 * 1024, 227 * 1024)),
    "h200": _GPU((9, 0), 132, 128, 1.98, 151_397_597_184, 4_800_000_000_000, 50 * 2**20, (228 * 1024, 227 * 1024)),
}
"""The 80 GB models of A100 and H100 on SXM boards, and H200."""
_TPUS = {"v4": 32 * GIB, "v5e": 16 * GIB, "v5p": 95 * GIB, "v6e": 32 * GIB}
"""Bytes of a chip's memory. JAX shows a v4 chip as two devices, which share its memory."""
FORMS = (
    "h100 or h100x8 (a GPU: a100, h100 or h200, and how many), or v5e:2x2 (a TPU: v4, v5e, v5p or v6e, and the shape of "
    "its slice)"
)


@dataclass(frozen=True)
class Target:
    """A machine to compile for."""

    name: str
    platform: str
    """gpu or tpu: JAX's name for the platform."""
    memory: int
    """Bytes of a device's memory."""
    describe: Callable[[], Any]
    """Returns its devices, from XLA. Raises if XLA's compiler for it is not installed, or does not know the machine."""

    @property
    def lowering(self) -> tuple[str]:
        """The platforms to lower programs for (`lowering_platforms` of `jax.stages.Traced.lower`)."""
        return ("cuda" if self.platform == "gpu" else self.platform,)

    def mesh(self) -> Mesh:
        """All devices in one row. Raises `UserError` if XLA's compiler for them is missing or refuses the machine."""
        try:
            devices = list(self.describe().devices)
        except Exception as error:
            raise UserError(self._cannot(error)) from error
        return Mesh(np.array(devices), (AXIS,))

    def host(self) -> "Target":
        """The part of the machine that one process uses: four chips of a TPU slice, or all GPUs."""
        kind, _, sizes = self.name.partition(":")
        if self.platform != "tpu" or math.prod(map(int, sizes.split("x"))) <= CHIPS_OF_A_HOST:
            return self
        return target(f"{kind}:2x2{'x1' * (sizes.count('x') - 1)}")

    def _cannot(self, error: Exception) -> str:
        told = f"{self.name}: XLA's compiler for it cannot be used ({str(error).splitlines()[0][:200]})"
        if self.platform == "tpu":
            return f'{told}; pip install "wm-jax[aot]" installs it; a slice must be one that Google offers'
        jaxlib = version("jaxlib")
        return (
            f"{told}; in a separate environment: pip install --no-deps jax-cuda12-plugin=={jaxlib} "
            f"jax-cuda12-pjrt=={jaxlib}"
        )


def target(name: str) -> Target:
    """The machine of this name: `h100`, `h100x8`, `v5e:2x2`, … Raises `UserError` if the name is unknown."""
    if match := re.fullmatch(r"([a-z]+\d+)(?:x([1-9]\d*))?", name):
        kind, count = match[1], int(match[2] or 1)
        if kind in _GPUS:
            gpu = _GPUS[kind]
            return Target(name, "gpu", gpu.memory, lambda: _gpus(gpu, count))
    elif match := re.fullmatch(r"(v\d+[a-z]?):([1-9]\d*(?:x[1-9]\d*){1,2})", name):
        kind, sizes = match[1], match[2]
        if kind in _TPUS:
            chips = math.prod(int(size) for size in sizes.split("x"))
            return Target(name, "tpu", _TPUS[kind], lambda: _tpus(name, chips))
    raise UserError(f"--target must be like {FORMS}, found {name!r}")


def _gpus(gpu: _GPU, count: int) -> Any:
    return topologies.get_topology_desc(platform="cuda", target_config=gpu.text(), topology=f"1x1x{count}")


def _tpus(name: str, chips: int) -> Any:
    # Read when the library is loaded: no TPU is present to query or to lock.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    single = {"chips_per_host_bounds": (1, 1, 1)} if chips == 1 else {}
    return topologies.get_topology_desc(name, platform="tpu", **single)
