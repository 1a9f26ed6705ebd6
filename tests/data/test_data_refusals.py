"""What the system refuses is told as what it is: never as damage, never with the advice to delete."""

import errno
import json
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from wm_jax.data.episodes import EpisodeStore
from wm_jax.data.files import read_json, remove, require_own, require_writable, sha256
from wm_jax.data.records import Episode, read_episode, read_header, write_episode, write_index
from wm_jax.data.weights import load_weights, save_weights
from wm_jax.errors import DamagedError, UserError
from wm_jax.rollouts.collect import _recorded
from wm_jax.run import RunDir


@contextmanager
def descriptors(free: int) -> Iterator[None]:
    """A process that may open `free` files more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + free, hard))
    # Those below the first free one are taken, those above it may not be.
    holes = [os.dup(0) for _ in range(lowest, lowest + free)] if free == 0 else []
    try:
        yield
    finally:
        for hole in holes:
            os.close(hole)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def one_frame(number: int) -> Episode:
    frames = np.full((1, 64, 64, 3), number % 256, np.uint8)
    return Episode(frames, np.zeros((1, 1), np.float32), np.zeros(1, np.float32), True, number, "probe")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """One of each kind that is read."""
    write_index(tmp_path, [write_episode(tmp_path, 0, one_frame(0))])
    save_weights(tmp_path / "w.safetensors", {"a": np.ones(3, np.float32)}, {})
    (tmp_path / "value.json").write_text("{}")
    run = RunDir(tmp_path)
    run.append([{"stage": "vision/round-0", "step": 1}])
    return tmp_path


READERS: dict[str, Callable[[Path], object]] = {
    "value.json": read_json,
    "w.safetensors": load_weights,
    "000000.array_record": read_episode,
    "index.jsonl": lambda path: EpisodeStore([path.parent]),
    "metrics.jsonl": lambda path: list(RunDir(path.parent).metrics()),
}


def test_too_many_open_files_are_said(files: Path) -> None:
    for name, read in READERS.items():
        read(files / name)
        with descriptors(0), pytest.raises(UserError) as caught:
            read(files / name)
        assert str(caught.value) == (
            f"cannot read {files / name}: Too many open files; allow more open files (`ulimit -n 4096`), then run the same "
            "command again"
        )
        assert not isinstance(caught.value, DamagedError)


def test_no_permission_is_said(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything: the system is stood in for."""

    def refuse(path: Path, *_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(Path, "read_bytes", refuse)
    for name, read in READERS.items():
        with pytest.raises(UserError, match=rf"cannot read .*{name}: Permission denied; change its permissions"):
            read(files / name)


def test_what_the_disk_does_not_give_is_no_damage(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = files / "000000.array_record"
    path.write_bytes(path.read_bytes()[:200] + bytes(path.stat().st_size - 200))
    with pytest.raises(DamagedError):
        read_episode(path)

    def refuse(path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UserError, match="Input/output error; check the disk") as caught:
        read_episode(path)
    assert not isinstance(caught.value, DamagedError)


def test_an_episode_that_may_not_be_read_is_not_recorded_anew(files: Path) -> None:
    path = files / "000000.array_record"
    whole = path.read_bytes()
    with descriptors(0), pytest.raises(UserError, match="Too many open files"):
        _recorded(files, [0], pytest.fail)
    assert path.read_bytes() == whole
    path.write_bytes(whole[:-1])
    warnings: list[str] = []
    assert _recorded(files, [0], warnings.append) == {} and not path.exists()
    assert "is damaged" in warnings[0]


def test_a_store_takes_a_part_of_the_descriptors(tmp_path: Path) -> None:
    """One descriptor an episode would be 200 of 160."""
    write_index(tmp_path, [write_episode(tmp_path, number, one_frame(number)) for number in range(200)])
    store = EpisodeStore([tmp_path])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (160, hard))
    try:
        for number in range(200):
            assert store.frame(number)[0, 0, 0] == number
        assert len(store._readers) == 40
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_missing_header_count_is_not_read_from_a_refused_file(files: Path) -> None:
    """ArrayRecord opens what the system refuses without a word, as a file of no records."""
    with descriptors(0), pytest.raises(UserError, match="Too many open files"):
        read_header(files / "000000.array_record")


@pytest.mark.parametrize("name", ["folder", "file/below", "x" * 300, "nowhere"])
def test_paths_that_cannot_be_read_say_why(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    says = {"folder": "Is a directory", "file/below": "Not a directory", "nowhere": "does not exist"}
    for read in (read_json, sha256, load_weights, read_episode):
        with pytest.raises(UserError, match=says.get(name, "File name too long; give a shorter name")):
            read(tmp_path / name)


def test_what_cannot_be_written_later_is_said_now(tmp_path: Path) -> None:
    require_writable(tmp_path / "new" / "scores.json")
    assert os.listdir(tmp_path / "new") == []
    with pytest.raises(UserError, match="Is a directory"):
        require_writable(tmp_path / "new")
    with pytest.raises(UserError, match=r"cannot write /proc/scores.json: "):
        require_writable(Path("/proc/scores.json"))


def test_what_is_not_ours_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "card.md"
    require_own(path, "by wm_jax", "model card")
    path.write_text("a card made by wm_jax")
    require_own(path, "by wm_jax", "model card")
    path.write_text("my notes")
    with pytest.raises(UserError, match=r"card\.md exists and is not a model card: it is not overwritten"):
        require_own(path, "by wm_jax", "model card")


def test_only_what_is_named_is_deleted(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    remove(tmp_path / "link")
    remove(tmp_path / "nowhere")
    assert (tmp_path / "kept" / "file").exists() and not (tmp_path / "link").is_symlink()
    remove(tmp_path / "kept")
    assert os.listdir(tmp_path) == []


def test_metrics_of_another_kind_are_passed_over(tmp_path: Path) -> None:
    run, line = RunDir(tmp_path), {"stage": "vision/round-0", "step": 1}
    run.append([line])
    with run.metrics_path.open("a") as file:
        file.write('[]\n3\n{"stage": 1, "step": 2}\n{"stage": "x"}\n{"stage": "x", "step": "2"}\n{"sta')
    assert list(run.metrics()) == [line]
    run.drop_metrics("memory/round-0", after=0)
    assert json.loads(run.metrics_path.read_text()) == line
    with run.metrics_path.open("ab") as file:
        file.write(b"\xff\n")
    with pytest.raises(DamagedError, match=r"metrics\.jsonl is damaged"):
        run.drop_metrics("memory/round-0", after=0)
