"""The episode store: nothing lost, any frame alone, damage named."""

import json
import os
import resource
import sys
from pathlib import Path

import numpy as np
import pytest

from wm_jax.data import episodes as episodes_module
from wm_jax.data.episodes import EpisodeStore, split
from wm_jax.data.frames import FrameSource, frame_batches
from wm_jax.data.records import (
    Episode,
    decode_frame,
    encode_frame,
    episode_path,
    read_episode,
    read_header,
    write_episode,
    write_index,
)
from wm_jax.errors import DamagedError, UserError

HEADER, ACTIONS, REWARDS = 0, 1, 2


def made_up(length: int, seed: int = 0) -> Episode:
    generator = np.random.default_rng(seed)
    frames = generator.integers(0, 256, (length, 64, 64, 3), dtype=np.uint8)
    frames[:, 8:] = np.arange(length)[:, None, None, None]
    actions = generator.standard_normal((length, 2)).astype(np.float32)
    return Episode(frames, actions, np.arange(length, dtype=np.float32) / 8, True, 123 + seed, "probe", "random", 4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four episodes of 5, 9, 1 and 12 frames."""
    write_index(tmp_path, [write_episode(tmp_path, i, made_up(n, i)) for i, n in enumerate((5, 9, 1, 12))])
    return tmp_path


def test_frames_are_stored_without_loss() -> None:
    generator = np.random.default_rng(0)
    for frame in generator.integers(0, 256, (20, 64, 64, 3), dtype=np.uint8):
        np.testing.assert_array_equal(decode_frame(encode_frame(frame)), frame)
    for level in (0, 255):
        frame = np.full((64, 64, 3), level, np.uint8)
        np.testing.assert_array_equal(decode_frame(encode_frame(frame)), frame)


def test_an_episode_comes_back_as_it_was(folder: Path) -> None:
    written, found = made_up(9, 1), read_episode(episode_path(folder, 1))
    np.testing.assert_array_equal(found.frames, written.frames)
    np.testing.assert_array_equal(found.actions, written.actions)
    np.testing.assert_array_equal(found.rewards, written.rewards)
    assert found.frames.dtype == np.uint8 and found.actions.dtype == found.rewards.dtype == np.float32
    assert (found.terminated, found.seed, found.task, found.policy, found.attempt) == (True, 124, "probe", "random", 4)


def test_the_index_can_be_read_by_a_person(folder: Path) -> None:
    lines = [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()]
    assert [line["file"] for line in lines] == [f"00000{i}.array_record" for i in range(4)]
    assert [line["length"] for line in lines] == [5, 9, 1, 12]
    assert lines[1]["episode_return"] == sum(range(9)) / 8
    assert all(line["bytes"] == (folder / line["file"]).stat().st_size for line in lines)


def test_the_same_episode_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_episode(tmp_path / name, 7, made_up(6))
    assert episode_path(tmp_path / "a", 7).read_bytes() == episode_path(tmp_path / "b", 7).read_bytes()


def test_frames_are_numbered_through_all_folders(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(episodes_module, "OPEN_READERS", 2)
    store = EpisodeStore([folder, folder])
    assert len(store) == 8 and store.number_of_frames == 54
    frames = np.concatenate([store.episode(number).frames for number in range(8)])
    order = np.random.default_rng(0).permutation(54)
    for index in order:
        np.testing.assert_array_equal(store.frame(index), frames[index])
    assert len(store._readers) == 2
    np.testing.assert_array_equal(store.starts, [0, 5, 14, 15, 27, 32, 41, 42])
    for outside in (-1, 54):
        with pytest.raises(IndexError):
            store.frame(outside)


def test_random_access_takes_little_memory(tmp_path: Path) -> None:
    headers = [write_episode(tmp_path, i, made_up(300, i)) for i in range(4)]
    write_index(tmp_path, headers)
    store = EpisodeStore([tmp_path])
    store.frame(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for index in np.random.default_rng(0).integers(0, 1200, 2000):
        store.frame(index)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    # In bytes on macOS, in KiB elsewhere.
    assert grown * (1 if sys.platform == "darwin" else 1024) < 1200 * 64 * 64 * 3 / 2


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "truncated":
        data = data[: len(data) // 2]
    elif how == "empty":
        data = bytearray()
    elif how == "altered":
        # Frames of noise fill the file from its start on; flip a byte in each stretch of 400.
        for place in range(300, 12_000, 400):
            data[place] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["truncated", "empty", "altered"])
def test_a_damaged_file_is_named(folder: Path, how: str) -> None:
    path = episode_path(folder, 3)
    damage(path, how)
    with pytest.raises(UserError, match=r"000003.array_record is damaged: expected .* found .* run the same command"):
        read_episode(path)
    with pytest.raises(UserError, match=r"000003.array_record is damaged: expected .* found .*; delete this file"):
        store = EpisodeStore([folder])
        for index in range(store.number_of_frames):
            store.frame(index)


@pytest.mark.parametrize("kept", [[], [0, 1, 2], [1, 2, 3], [0, 2, 1, 3], [0, 1, 2, 3, 3]])
def test_an_index_that_lists_other_episodes_is_damaged(folder: Path, kept: list[int]) -> None:
    path = folder / "index.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    EpisodeStore([folder], counts=[4])
    path.write_text("".join(lines[number] for number in kept))
    with pytest.raises(DamagedError, match=rf"index.jsonl is damaged: .* found {len(kept)} of 4 episodes"):
        EpisodeStore([folder], counts=[4])


def test_a_missing_file_or_index_is_named(folder: Path) -> None:
    episode_path(folder, 2).unlink()
    with pytest.raises(UserError, match=r"000002.array_record does not exist; run the same command again"):
        EpisodeStore([folder])
    for damaged in ('{"number": 0}\n', "3\n", "{\n"):
        (folder / "index.jsonl").write_text(damaged)
        with pytest.raises(UserError, match=r"index.jsonl is damaged: .*; delete this file and run the same command"):
            EpisodeStore([folder])
    (folder / "index.jsonl").unlink()
    with pytest.raises(UserError, match=r"index.jsonl does not exist; run the same command again"):
        EpisodeStore([folder])


def test_a_file_of_something_else_is_named(folder: Path) -> None:
    episode_path(folder, 0).write_bytes(os.urandom(70_000))
    with pytest.raises(UserError, match=r"000000.array_record is damaged"):
        read_header(episode_path(folder, 0))


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write .*000000.array_record"):
        write_episode(tmp_path / "missing", 0, made_up(2))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(UserError, match=r"cannot write .*000001.array_record: .*; free space there"):
            write_episode(tmp_path, 1, made_up(300))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_split_holds_out_whole_episodes() -> None:
    training, held_out = split(50, 0.1, 3)
    assert len(held_out) == 5 and sorted([*training, *held_out]) == list(range(50))
    np.testing.assert_array_equal(split(50, 0.1, 3)[1], held_out)
    assert not np.array_equal(split(50, 0.1, 4)[1], held_out)
    assert [len(part) for part in split(4, 0.05, 0)] == [3, 1]
    assert [len(part) for part in split(4, 0.0, 0)] == [4, 0]


def test_a_source_gives_the_frames_of_its_episodes(folder: Path) -> None:
    store = EpisodeStore([folder])
    source = FrameSource(store, [3, 1])
    expected = np.concatenate([store.episode(3).frames, store.episode(1).frames])
    assert len(source) == 21
    for index in range(21):
        np.testing.assert_array_equal(source[index], expected[index])


def test_a_source_of_pairs_has_the_frame_before_and_at_an_episodes_start_the_frame_itself(folder: Path) -> None:
    store = EpisodeStore([folder])
    source = FrameSource(store, [3, 1], pairs=True)
    expected = [
        np.stack([np.concatenate([frames[:1], frames[:-1]]), frames], axis=1)
        for frames in (store.episode(3).frames, store.episode(1).frames)
    ]
    np.testing.assert_array_equal([source[index] for index in range(len(source))], np.concatenate(expected))
    assert next(frame_batches(store, [0, 1], 2, seed=0, start=0, stop=1, pairs=True)).shape == (2, 2, 64, 64, 3)


def test_batches_go_on_where_they_stopped(folder: Path) -> None:
    store = EpisodeStore([folder])
    whole = list(frame_batches(store, [0, 1, 3], 4, seed=5, start=0, stop=20))
    rest = list(frame_batches(store, [0, 1, 3], 4, seed=5, start=13, stop=20))
    assert len(whole) == 20 and whole[0].shape == (4, 64, 64, 3) and whole[0].dtype == np.uint8
    np.testing.assert_array_equal(whole[13:], rest)
    other = list(frame_batches(store, [0, 1, 3], 4, seed=6, start=0, stop=20))
    assert not np.array_equal(whole, other)


def test_every_frame_comes_once_before_any_comes_again(folder: Path) -> None:
    store = EpisodeStore([folder])
    frames = np.concatenate(list(frame_batches(store, [0, 3], 2, seed=0, start=0, stop=16)))[:, :8]
    known = np.concatenate([store.episode(number).frames for number in (0, 3)])[:, :8]
    which = [int(np.flatnonzero((known == frame).all((1, 2, 3)))[0]) for frame in frames]
    assert sorted(which[:17]) == list(range(17))
    assert sorted(which[17:]) != which[17:]


def test_a_mirror_image_follows_every_episode(folder: Path) -> None:
    plain, store = EpisodeStore([folder]), EpisodeStore([folder], mirror=(-1.0, 1.0))
    assert len(store) == 2 * len(plain) and store.number_of_frames == 2 * plain.number_of_frames
    np.testing.assert_array_equal(store.lengths, np.repeat(plain.lengths, 2))
    for number in range(len(plain)):
        recorded, same, image = plain.episode(number), store.episode(2 * number), store.episode(2 * number + 1)
        np.testing.assert_array_equal(same.frames, recorded.frames)
        np.testing.assert_array_equal(same.actions, recorded.actions)
        np.testing.assert_array_equal(image.frames, np.flip(recorded.frames, axis=2))
        np.testing.assert_array_equal(image.actions, recorded.actions * [-1, 1])
        np.testing.assert_array_equal(image.rewards, recorded.rewards)
        assert image.terminated == recorded.terminated
    source = FrameSource(store, [7, 2])
    expected = np.concatenate([np.flip(plain.episode(3).frames, axis=2), plain.episode(1).frames])
    np.testing.assert_array_equal([source[index] for index in range(len(source))], expected)
