"""One mesh of many devices; one run of many processes.

Every process runs the same program (JAX's multi-controller runtime). Collective functions here, such as `gather`,
complete once all processes have called them in the same order. Every decision about such a call must be the same in all
processes. With one process, nothing is exchanged.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import chain, zip_longest
from typing import Any, NoReturn, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from wm_jax.errors import UserError

AXIS = "devices"
"""The mesh's only axis. A population's lanes and a batch's rows are split along it."""

SECONDS_TO_MEET = 300
"""How long a process waits for the others when a run starts."""
SECONDS_TO_PART = 30
"""How long an ending process waits for the others. A failed process never arrives."""

Item = TypeVar("Item")


class SharedError(UserError):
    """An error that all processes raise together, so that process 0 can print it for all."""


@dataclass(frozen=True)
class Hosts:
    """How the processes of a run find each other. By default, the process is alone."""

    distributed: bool = False
    """This process is one of several in a run started by Slurm's srun, Open MPI or a TPU pod."""
    coordinator: str | None = None
    """HOST:PORT of process 0 (any free port), if none of these started the run. Needs --processes and --process-id."""
    processes: int | None = None
    """Number of processes in the run."""
    process_id: int | None = None
    """Number of this process, from 0."""


def start(hosts: Hosts) -> None:
    """Join the other processes, if there are any. Call it before any other use of JAX.

    Raises `UserError` if the options do not fit together, or if the other processes cannot be found.
    """
    explicit = (hosts.coordinator, hosts.processes, hosts.process_id)
    if explicit == (None, None, None) and not hosts.distributed:
        return
    if explicit != (None, None, None):
        _check(hosts)
    # This service would handle SIGTERM itself; a run stops at its own next safe point.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            *explicit,
            initialization_timeout=SECONDS_TO_MEET,
            shutdown_timeout_seconds=SECONDS_TO_PART,
            cluster_detection_method="deactivate" if hosts.coordinator else None,
        )
    except (ValueError, RuntimeError) as error:
        if hosts.coordinator:
            raise UserError(
                f"process {hosts.process_id} of {hosts.processes} cannot join {hosts.coordinator} "
                f"({_first_line(error)}); check that this address is that of process 0, that it can be reached, and that "
                f"all processes start within {SECONDS_TO_MEET} s"
            ) from error
        raise UserError(
            "--distributed found no cluster that lists the processes: start the run with Slurm's srun or Open MPI, on "
            f"a TPU pod, or give --coordinator, --processes and --process-id ({_first_line(error)})"
        ) from error


def _check(hosts: Hosts) -> None:
    """Raise `UserError` unless the explicit options are complete and valid."""
    host, _, port = (hosts.coordinator or "").rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"--coordinator must be HOST:PORT of process 0, found {hosts.coordinator or 'nothing'}")
    if hosts.processes is None or hosts.process_id is None or not 0 <= hosts.process_id < hosts.processes:
        raise UserError("--coordinator needs --processes N and --process-id I, with I from 0 to N - 1, found "
                        f"{hosts.processes} and {hosts.process_id}")  # fmt: skip


def require_devices() -> None:
    """Raise `UserError` unless JAX finds devices to compute on."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        asked = os.environ.get("JAX_PLATFORMS", "")
        raise UserError(
            f"JAX finds no device{f' with JAX_PLATFORMS={asked}' if asked else ''} ({_first_line(error)}); set "
            "JAX_PLATFORMS=cpu to compute on the CPU, or install the accelerator's packages (wm-jax[cuda], "
            "wm-jax[tpu]) and check that no other program uses it"
        ) from error


@contextmanager
def together() -> Iterator[None]:
    """Turn JAX's errors about another process that has ended into a `UserError`."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        # An immediate failure is a ValueError. Both kinds begin with a status such as "UNAVAILABLE: ".
        if jax.process_count() == 1 or not re.match("[A-Z_]+: ", str(error)):
            raise
        raise UserError(
            f"process {jax.process_index()} cannot continue, most likely because another one ended: read its message, "
            f"then start all processes again; they continue from what was saved (JAX reports: {_first_line(error)})"
        ) from error


def leave(code: int) -> NoReturn:
    """End this process with exit code `code` without waiting for the others. They notice, and end too."""
    if jax.distributed.is_initialized():
        # A normal exit would wait for them.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def is_main() -> bool:
    """Whether this is process 0, which alone writes files and prints."""
    return jax.process_index() == 0


def mesh(count: int = 0) -> Mesh:
    """All devices of all processes in one row, or the first `count` of them; 0 means all. Raises `UserError` if there
    are fewer, or if several processes would use only some of their devices."""
    # Sorted by process: the rows on one process's devices are neighbours.
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    if not 0 <= count <= len(devices):
        raise UserError(f"devices must be between 0 (all) and {len(devices)}, which JAX finds here, found {count}")
    if count not in (0, len(devices)) and jax.process_count() > 1:
        raise UserError(f"devices is {count}, but {jax.process_count()} processes share {len(devices)} devices; set it to "
                        "0: all")  # fmt: skip
    return Mesh(np.array(devices[: count or len(devices)]), (AXIS,))


def platform(mesh: Mesh | None) -> str:
    """The platform that a program on `mesh` is compiled for, by JAX's name. It is that of the mesh's devices, which
    need not be present (see `wm_jax.targets`), or that of the default devices."""
    return jax.default_backend() if mesh is None else mesh.devices.flat[0].platform


def local_mesh(whole: Mesh) -> Mesh:
    """This process's devices of a mesh, for work that it does alone."""
    return Mesh(np.array(whole.local_devices), (AXIS,))


def replicate(mesh: Mesh, tree: Any) -> Any:
    """Put `tree` (host or device arrays, typed keys included) whole on each device. Every process passes the same
    tree."""
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda array: place(array, whole), tree)


def key_shape() -> Any:
    """The shape of a random key, as `jax.ShapeDtypeStruct`."""
    return jax.eval_shape(lambda: jax.random.key(0))


def shape(mesh: Mesh, tree: Any, dealt: bool = False) -> Any:
    """The shapes of `tree` (arrays or shapes) with their sharding: whole on each device of a mesh, or, if `dealt`, rows
    split over it. Used to trace programs for devices that are not present."""
    sharding = NamedSharding(mesh, PartitionSpec(AXIS) if dealt and mesh.size > 1 else PartitionSpec())
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)


def place(array: Any, sharding: Sharding) -> jax.Array:
    """Put one array, which every process has whole, on the devices according to `sharding`."""
    if sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    if isinstance(array, jax.Array) and jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(place(jax.random.key_data(array), sharding), impl=jax.random.key_impl(array))
    host = np.asarray(array)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def part(tree: Any) -> Any:
    """This process's rows of arrays [B, ...] that it has whole: [B / processes, ...]."""
    index, count = jax.process_index(), jax.process_count()
    return jax.tree.map(lambda array: array[index * len(array) // count : (index + 1) * len(array) // count], tree)


def rows(mesh: Mesh, tree: Any) -> Any:
    """Arrays [B, ...] with rows split over the mesh, built from this process's `part` of them."""
    # A step on one device returns replicated arrays. Any other sharding of its first input would compile it twice.
    sharding = NamedSharding(mesh, PartitionSpec(AXIS) if mesh.size > 1 else PartitionSpec())
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)
    return jax.tree.map(lambda array: jax.make_array_from_process_local_data(sharding, np.asarray(array)), tree)


def local(tree: Any) -> Any:
    """Gather sharded arrays whole on this process's first device. All processes call it."""
    return jax.tree.map(_local, tree)


def _local(array: jax.Array) -> jax.Array:
    if not array.is_fully_replicated:
        assert isinstance(array.sharding, NamedSharding)
        array = _gathering(NamedSharding(array.sharding.mesh, PartitionSpec()))(array)
    return array.addressable_data(0)


@cache
def _gathering(whole: NamedSharding) -> Callable[[jax.Array], jax.Array]:
    """A function that reshards an array as `whole`. The same function each time, so that it compiles once."""
    return jax.jit(lambda same: same, out_shardings=whole)


def share(items: Sequence[Item]) -> list[Item]:
    """This process's share of `items`: every n-th item, for n processes."""
    return list(items[jax.process_index() :: jax.process_count()])


def join(results: list[Any]) -> list[Any]:
    """The inverse of `share`: all processes' results in the order of the items. Results must be JSON values."""
    nothing = object()
    dealt = chain.from_iterable(zip_longest(*gather(results), fillvalue=nothing))
    return [result for result in dealt if result is not nothing]


def gather(value: Any) -> list[Any]:
    """The values of all processes, in process order. Values must be JSON values; numbers are exact."""
    if jax.process_count() == 1:
        return [value]
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = _all(np.array(len(data), np.int32))
    # Rounded up to a power of two, so that few lengths are compiled.
    padded = np.zeros(1 << int(sizes.max() - 1).bit_length(), np.uint8)
    padded[: len(data)] = data
    return [json.loads(part[:size].tobytes()) for part, size in zip(_all(padded), sizes, strict=True)]


def agree(flag: bool) -> bool:
    """Whether `flag` is True on any process."""
    return flag if jax.process_count() == 1 else bool(_all(np.array(flag)).any())


def on_main(work: Callable[[], Item]) -> Item:
    """Run `work` on process 0. All processes get its result, a JSON value, or raise its `UserError` as a
    `SharedError`."""
    if jax.process_count() == 1:
        return work()
    told: dict[str, Any] = {}
    if is_main():
        try:
            told = {"result": work()}
        except UserError as error:
            told = {"error": str(error)}
    told = gather(told)[0]
    if "error" in told:
        raise SharedError(told["error"])
    return told["result"]


def on_all(work: Callable[[], Item]) -> Item:
    """Run `work` on every process. Each gets its own result; if any raised a `UserError`, all raise the first one."""
    result, error = None, None
    try:
        result = work()
    except UserError as found:
        error = found
    reason = next(filter(None, gather(error and str(error))), None)
    if reason is not None:
        raise SharedError(reason) from error
    return cast(Item, result)


def _all(array: np.ndarray) -> np.ndarray:
    """[processes, ...]: the arrays of all processes; all have the same shape."""
    return multihost_utils.process_allgather(array)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
