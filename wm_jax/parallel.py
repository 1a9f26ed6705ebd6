"""Many devices as one mesh, many processes as one run.

Every process runs the same program (JAX's multi-controller runtime). What the functions here do together, as `gather`,
they do once all processes have called them, in the same order: whatever decides about such a call must be the same
everywhere. With one process they do nothing but what they say.
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
"""The mesh's only axis: a population's lanes and a batch's rows are laid along it."""

SECONDS_TO_MEET = 300
"""How long a process waits for the others when a run begins."""
SECONDS_TO_PART = 30
"""How long a process that ends waits for the others: those of a failed one never come."""

Item = TypeVar("Item")


class SharedError(UserError):
    """An error that all processes raise at once, so that process 0 can say it for all."""


@dataclass(frozen=True)
class Hosts:
    """How the processes of a run find each other; as it stands, this one is alone."""

    distributed: bool = False
    """This is one of several processes that are one run, as Slurm's srun, Open MPI or a TPU pod started them."""
    coordinator: str | None = None
    """Where none of these did: HOST:PORT of process 0, any free port; needs the following two."""
    processes: int | None = None
    """How many processes are the run."""
    process_id: int | None = None
    """Which of them this is, from 0."""


def start(hosts: Hosts) -> None:
    """Join the other processes, if there are any; comes before anything else that JAX does.

    Raises `UserError` where the options do not go together, or the others cannot be found.
    """
    explicit = (hosts.coordinator, hosts.processes, hosts.process_id)
    if explicit == (None, None, None) and not hosts.distributed:
        return
    if explicit != (None, None, None):
        _check(hosts)
    # It would take SIGTERM for itself; a run stops at its own next safe point.
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
                f"process {hosts.process_id} of {hosts.processes} cannot join {hosts.coordinator}: {_first_line(error)}"
            ) from error
        raise UserError(
            "--distributed found no cluster that says which processes take part: start it by Slurm's srun, Open MPI or on "
            f"a TPU pod, or give --coordinator, --processes and --process-id ({_first_line(error)})"
        ) from error


def _check(hosts: Hosts) -> None:
    """Raise `UserError` unless the explicit options are whole and possible."""
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
            f"JAX finds nothing to compute on{f' with JAX_PLATFORMS={asked}' if asked else ''} ({_first_line(error)}); set "
            "JAX_PLATFORMS=cpu to compute on the processor, or install what the accelerator needs (wm-jax[cuda], "
            "wm-jax[tpu]) and see that no other program holds it"
        ) from error


@contextmanager
def together() -> Iterator[None]:
    """Turn what JAX raises when another process has ended into a `UserError`."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        # What fails at once is a ValueError; either begins with a status, as "UNAVAILABLE: ".
        if jax.process_count() == 1 or not re.match("[A-Z_]+: ", str(error)):
            raise
        raise UserError(
            f"process {jax.process_index()} cannot go on, most likely because another one ended: see what that one said, "
            f"then start all again, they go on from what was saved (JAX says: {_first_line(error)})"
        ) from error


def leave(code: int) -> NoReturn:
    """End this process, which the others do not expect, with exit code `code`; they find out and end too."""
    if jax.distributed.is_initialized():
        # The ordinary end would wait for them.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def is_main() -> bool:
    """Whether this is process 0, the one that writes and speaks."""
    return jax.process_index() == 0


def mesh(count: int = 0) -> Mesh:
    """All devices of all processes in one row, or the first `count` of them; 0 is all. Raises `UserError` where there are
    not so many, or where only some would be taken of several processes'."""
    # Process by process: what a process lays on its own devices are then neighbouring rows.
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    if not 0 <= count <= len(devices):
        raise UserError(f"devices must be between 0 (all) and {len(devices)}, which JAX finds here, found {count}")
    if count not in (0, len(devices)) and jax.process_count() > 1:
        raise UserError(f"devices is {count}, but {jax.process_count()} processes share {len(devices)} devices; set it to "
                        "0: all")  # fmt: skip
    return Mesh(np.array(devices[: count or len(devices)]), (AXIS,))


def platform(mesh: Mesh | None) -> str:
    """What kind of devices a program on `mesh` is compiled for, by JAX's name: those of the mesh, which need not be here
    (`wm_jax.targets`), or the default ones."""
    return jax.default_backend() if mesh is None else mesh.devices.flat[0].platform


def local_mesh(whole: Mesh) -> Mesh:
    """This process's devices of a mesh, for what it does alone."""
    return Mesh(np.array(whole.local_devices), (AXIS,))


def replicate(mesh: Mesh, tree: Any) -> Any:
    """`tree`, of arrays on the host or on a device, typed keys too, whole on each device. Every process gives the same."""
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda array: place(array, whole), tree)


def key_shape() -> Any:
    """The shape of a random key, as `jax.ShapeDtypeStruct`."""
    return jax.eval_shape(lambda: jax.random.key(0))


def shape(mesh: Mesh, tree: Any, dealt: bool = False) -> Any:
    """The shapes of `tree`, of arrays or of shapes, with where they lie: whole on each device of a mesh, or their rows
    `dealt` out over it. What a program is traced with for devices that are not here."""
    sharding = NamedSharding(mesh, PartitionSpec(AXIS) if dealt and mesh.size > 1 else PartitionSpec())
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)


def place(array: Any, sharding: Sharding) -> jax.Array:
    """One array, which every process has whole, on the devices as `sharding` says."""
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
    """Arrays [B, ...] with their rows dealt out over the mesh, from this process's `part` of them."""
    # What a step on one device returns is called whole; called anything else before, it would compile twice.
    sharding = NamedSharding(mesh, PartitionSpec(AXIS) if mesh.size > 1 else PartitionSpec())
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)
    return jax.tree.map(lambda array: jax.make_array_from_process_local_data(sharding, np.asarray(array)), tree)


def local(tree: Any) -> Any:
    """Arrays that lie on a mesh, whole on this process's first device. All processes call it."""
    return jax.tree.map(_local, tree)


def _local(array: jax.Array) -> jax.Array:
    if not array.is_fully_replicated:
        assert isinstance(array.sharding, NamedSharding)
        array = _gathering(NamedSharding(array.sharding.mesh, PartitionSpec()))(array)
    return array.addressable_data(0)


@cache
def _gathering(whole: NamedSharding) -> Callable[[jax.Array], jax.Array]:
    """Lays an array out as `whole`; the same function each time, so that it is compiled once."""
    return jax.jit(lambda same: same, out_shardings=whole)


def share(items: Sequence[Item]) -> list[Item]:
    """What of `items` is this process's work: every n-th of them, n processes."""
    return list(items[jax.process_index() :: jax.process_count()])


def join(results: list[Any]) -> list[Any]:
    """The inverse of `share`: from each process's results, which JSON can hold, all in the items' order."""
    nothing = object()
    dealt = chain.from_iterable(zip_longest(*gather(results), fillvalue=nothing))
    return [result for result in dealt if result is not nothing]


def gather(value: Any) -> list[Any]:
    """What each process gave, in their order. JSON must hold it; numbers come through exactly."""
    if jax.process_count() == 1:
        return [value]
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = _all(np.array(len(data), np.int32))
    # Rounded up, so that few lengths are compiled for.
    padded = np.zeros(1 << int(sizes.max() - 1).bit_length(), np.uint8)
    padded[: len(data)] = data
    return [json.loads(part[:size].tobytes()) for part, size in zip(_all(padded), sizes, strict=True)]


def agree(flag: bool) -> bool:
    """Whether any process says so."""
    return flag if jax.process_count() == 1 else bool(_all(np.array(flag)).any())


def on_main(work: Callable[[], Item]) -> Item:
    """Have process 0 do `work`: all get what it returns, which JSON must hold, or raise its `UserError` as a shared one."""
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
    """Have every process do `work`: each gets what it returned there, or all raise the `UserError` of the first that had
    one."""
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
    """[processes, ...]: the array of each; all have the same shape."""
    return multihost_utils.process_allgather(array)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
