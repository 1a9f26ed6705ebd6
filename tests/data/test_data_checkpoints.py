"""A checkpoint counts once it has been read back; why one is not read has a sentence for every reason."""

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wm_jax import checkpoints as module
from wm_jax.checkpoints import MANIFEST, Checkpoints
from wm_jax.errors import UserError

STATE = {"x": jnp.full(1000, 3.0, jnp.float32), "n": jnp.int32(7), "h": jnp.ones(3, jnp.bfloat16)}
LIKE = jax.tree.map(jnp.zeros_like, STATE)


@pytest.mark.parametrize("name", ["plain", "x[1]", "x[!a]", "x?", "x*", "x\\y", "gs:", "ü \n'{}%", "\udcff"])
def test_a_folder_may_have_any_name(name: str, tmp_path: Path) -> None:
    """Orbax looks for files by patterns: its own beside those of a folder that the pattern also means."""
    for number, folder in enumerate(("x1", "xy", name)):
        state = jax.tree.map(lambda array, number=number: array * array.dtype.type(number), STATE)
        Checkpoints(tmp_path / folder / "checkpoints").save(5, state)
    step, loaded = Checkpoints(tmp_path / name / "checkpoints").load_last(LIKE, pytest.fail) or (0, {})
    assert step == 5
    assert os.listdir(tmp_path / name / "checkpoints") == ["000000005"]
    for key, array in loaded.items():
        assert array.dtype == STATE[key].dtype
        np.testing.assert_array_equal(array, STATE[key] * STATE[key].dtype.type(2))


@pytest.fixture
def saved(tmp_path: Path) -> Checkpoints:
    """Steps 1 and 2."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in (1, 2):
        checkpoints.save(step, STATE)
    return checkpoints


def lose(file: Path) -> None:
    file.unlink()


def alter(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b" ")


def tear(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-9])


def empty(file: Path) -> None:
    file.write_text("[]")


METADATA = "state/_METADATA"


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        (METADATA, lose, f"000000002 is incomplete: its file {METADATA} is missing"),
        (METADATA, alter, r"_METADATA was altered: expected SHA-256 \w{12}…, found \w{12}…"),
        (MANIFEST, lose, "000000002 is incomplete: it has no manifest.json"),
        (MANIFEST, tear, "manifest.json is damaged: expected JSON"),
        (MANIFEST, empty, r"manifest.json is damaged: expected files and their SHA-256, found \[\]"),
    ],
)
def test_damage_is_told_and_the_one_before_is_taken(
    file: str, change: Callable[[Path], None], says: str, saved: Checkpoints
) -> None:
    change(saved.folder / "000000002" / file)
    warnings: list[str] = []
    step, loaded = saved.load_last(LIKE, warnings.append) or (0, {})
    assert step == 1 and int(loaded["n"]) == 7
    with pytest.raises(UserError, match=says):
        saved.load(2, LIKE)
    (warning,) = warnings
    assert warning.endswith("; continuing from the previous checkpoint")
    change(saved.folder / "000000001" / file)
    with pytest.raises(
        UserError, match=r"no older checkpoint is intact: delete .*checkpoints to start this stage again"
    ):
        saved.load_last(LIKE, warnings.append)


@pytest.mark.parametrize(
    ("like", "says"),
    [
        ({**LIKE, "x": jnp.zeros(999, jnp.float32)}, r"x expected float32\[999\], found float32\[1000\]"),
        ({**LIKE, "n": jnp.float32(0)}, r"n expected float32\[\], found int32\[\]"),
        ({**LIKE, "y": jnp.int32(0)}, r"y expected int32\[\], found nothing"),
        ({"x": LIKE["x"], "h": LIKE["h"]}, r"n expected nothing, found int32\[\]"),
    ],
)
def test_another_model_is_told_at_once(like: dict[str, jax.Array], says: str, saved: Checkpoints) -> None:
    """An older checkpoint would not fit either, and nothing is to be deleted."""
    warnings: list[str] = []
    with pytest.raises(UserError, match=f"does not fit this experiment's models: {says}; use the settings") as caught:
        saved.load_last(like, warnings.append)
    assert not warnings and "delete" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied; change its permissions"),
        (
            OSError(errno.EMFILE, "Too many open files"),
            r"Too many open files; allow more open files \(`ulimit -n 4096`\)",
        ),
        (OSError(errno.EIO, "Input/output error"), "Input/output error; check the disk"),
        (ValueError("a defect"), "Orbax: 'a defect'; fix the cause"),
        (ValueError("tensorstore: Too many open files"), "Too many open files'; allow more open files"),
    ],
)
def test_a_refusal_is_told_as_one(
    error: Exception, says: str, saved: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither is an older one taken, nor is deleting advised; in the digests as in Orbax."""

    def refuse(*_: object) -> None:
        raise error

    places = ["hashlib.file_digest"] if isinstance(error, OSError) else []
    for place in (*places, "orbax.checkpoint.v1.load"):
        with monkeypatch.context() as patched:
            patched.setattr(place, refuse)
            warnings: list[str] = []
            with pytest.raises(UserError, match=f"cannot read .*00002.*: .*{says}.*, then run the same") as caught:
                saved.load_last(LIKE, warnings.append)
            assert not warnings and "delete" not in str(caught.value) and "damage" not in str(caught.value)
    assert (saved.load_last(LIKE, pytest.fail) or (0,))[0] == 2


def test_what_is_not_read_back_does_not_count(saved: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those before it stay."""
    read = module._read

    def other(path: Path, like: dict) -> dict:
        return {**read(path, like), "n": jnp.int32(8)}

    monkeypatch.setattr(module, "_read", other)
    with pytest.raises(UserError, match=r"n in the checkpoint .*writing-3 differs when read back"):
        saved.save(3, STATE)
    assert saved.steps() == [1, 2]


@contextmanager
def full(*_: object) -> Iterator[None]:
    raise OSError(errno.ENOSPC, "No space left on device")
    yield


def test_a_full_disk_leaves_those_before(saved: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("orbax.checkpoint.v1.save", "os.replace"):
        with monkeypatch.context() as patched:
            patched.setattr(place, lambda *_: full().__enter__())
            with pytest.raises(UserError, match=r"cannot write .*: No space left on device; free space there"):
                saved.save(3, STATE)
        assert saved.steps() == [1, 2]
    saved.save(3, STATE)
    assert saved.steps() == [2, 3]
    assert json.loads((saved.folder / "000000003" / MANIFEST).read_text()).keys() >= {METADATA}
