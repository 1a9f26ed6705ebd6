"""Run twice at a time, as processes 0 and 1 of one run: what they tell each other, and what both make of it."""

import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from wm_jax import parallel
from wm_jax.checkpoints import Checkpoints
from wm_jax.errors import UserError
from wm_jax.run import RunDir

# No import touches a device, which would be too early.
parallel.start(parallel.Hosts(coordinator=sys.argv[1], processes=2, process_id=int(sys.argv[2])))

ME, FOLDER = jax.process_index(), Path(sys.argv[3])


def fails() -> None:
    raise UserError("the disk is full")


def they_agree() -> None:
    assert parallel.is_main() == (ME == 0)
    assert parallel.share(range(7)) == [[0, 2, 4, 6], [1, 3, 5]][ME]
    assert parallel.join([number / 10 for number in parallel.share(range(7))]) == [number / 10 for number in range(7)]
    assert parallel.join(parallel.share([0.1])) == [0.1]
    assert parallel.gather({"me": ME, "long": "x" * 1000 * ME}) == [
        {"me": 0, "long": ""},
        {"me": 1, "long": "x" * 1000},
    ]
    assert parallel.agree(ME == 1) and not parallel.agree(False)
    assert parallel.on_main(lambda: ME) == 0
    with pytest.raises(parallel.SharedError, match="the disk is full") if ME else pytest.raises(UserError):
        parallel.on_main(fails)
    with pytest.raises(UserError, match="devices is 1, but 2 processes share 2"):
        parallel.mesh(1)


def arrays_go_there_and_back() -> None:
    mesh, table = parallel.mesh(), np.arange(12.0, dtype=np.float32).reshape(4, 3)
    whole = parallel.replicate(mesh, {"table": table, "key": jax.random.key(3)})
    assert all(not leaf.is_fully_addressable for leaf in jax.tree.leaves(whole))
    rows = parallel.rows(mesh, parallel.part(table))
    np.testing.assert_array_equal(rows.addressable_data(0), table[2 * ME : 2 * ME + 2])
    local = parallel.local({**whole, "rows": rows})
    np.testing.assert_array_equal(local["table"], table)
    np.testing.assert_array_equal(local["rows"], table)
    assert jax.random.key_data(local["key"]).tolist() == jax.random.key_data(jax.random.key(3)).tolist()

    state = {"rows": rows, "whole": whole["table"], "own": jax.numpy.asarray(table)}
    checkpoints = Checkpoints(FOLDER / "checkpoints")
    checkpoints.save(4, state)
    step, loaded = checkpoints.load_last(jax.tree.map(jax.numpy.zeros_like, state), print) or (0, {})
    assert step == 4
    for name, array in loaded.items():
        assert array.sharding == state[name].sharding
        np.testing.assert_array_equal(parallel.local(array), table)


def a_folder_must_be_seen_by_both() -> None:
    with RunDir(FOLDER / "shared").locked():
        pass
    with (
        pytest.raises(UserError, match=r"x\[1\] has characters .* Orbax cannot save"),
        RunDir(FOLDER / "x[1]").locked(),
    ):
        pass
    with (
        pytest.raises(parallel.SharedError, match="process 1 cannot read"),
        RunDir(FOLDER / f"of process {ME}" / "run").locked(),
    ):
        pass


they_agree()
arrays_go_there_and_back()
pytest.MonkeyPatch().setattr("wm_jax.run.SECONDS_TO_SEE", 0.5)
a_folder_must_be_seen_by_both()
