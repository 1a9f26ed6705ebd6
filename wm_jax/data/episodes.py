"""Random access to the frames of many recorded episodes; memory does not grow with their size."""

import json
import resource
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from wm_jax.data.files import reading
from wm_jax.data.records import (
    INDEX,
    RECORDS_BEFORE_FRAMES,
    Episode,
    Header,
    checked_frame,
    damaged,
    open_records,
    read_episode,
    read_records,
    size,
)
from wm_jax.errors import DamagedError

OPEN_READERS = 500
"""Maximum number of open files, one descriptor each. Opening a file costs more than reading a frame."""
SHARE_OF_DESCRIPTORS = 0.25
"""Maximum share of this process's file descriptors (`ulimit -n`) to use."""


class EpisodeStore:
    """The episodes of one or more folders (rounds), in order; frames are numbered across all folders.

    `counts` is the number of episodes in each folder, if known. With `mirror` [A], the factors that mirror an action
    (`wm_jax.tasks.Task.mirror`), every recorded episode is followed by its mirror image, left and right exchanged, as a
    separate episode with an odd number.

    Safe to read from several threads. Raises `UserError`, which names the file, if one is missing, truncated or
    altered.
    """

    def __init__(
        self,
        folders: Sequence[str | Path],
        mirror: Sequence[float] | None = None,
        counts: Sequence[int] | None = None,
    ):
        self.mirror = mirror
        known = zip(map(Path, folders), counts or [None] * len(folders), strict=True)
        entries = [(folder, entry) for folder, count in known for entry in _read_index(folder, count)]
        self.paths = [folder / entry.pop("file") for folder, entry in entries]
        expected = [entry.pop("bytes") for _, entry in entries]
        self.headers = [Header(**entry) for _, entry in entries]
        for path, written in zip(self.paths, expected, strict=True):
            if (found := size(path)) != written:
                raise damaged(path, f"{written} bytes", f"{found} bytes")
        if mirror is not None:
            self.paths = [path for path in self.paths for _ in range(2)]
            self.headers = [header for header in self.headers for _ in range(2)]
        self.lengths = np.array([header.length for header in self.headers], np.int64)
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)[:-1]]).astype(np.int64)
        self.number_of_frames = int(self.lengths.sum())
        self._readers: OrderedDict[Path, ArrayRecordReader] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """E: number of episodes."""
        return len(self.paths)

    def episode(self, number: int) -> Episode:
        """Read the whole episode `number`, numbered across all folders."""
        episode = read_episode(self.paths[number])
        factors = self._image(number)
        if factors is None:
            return episode
        actions = episode.actions * np.array(factors, np.float32)
        return replace(episode, frames=episode.frames[:, :, ::-1], actions=actions)

    def frame(self, index: int) -> np.ndarray:
        """Frame `index` of all N frames: uint8 [64, 64, 3]."""
        if not 0 <= index < self.number_of_frames:
            raise IndexError(f"frame {index} of {self.number_of_frames}")
        number = int(np.searchsorted(self.starts, index, side="right")) - 1
        path = self.paths[number]
        record = RECORDS_BEFORE_FRAMES + int(index) - int(self.starts[number])
        frame = checked_frame(path, read_records(self._reader(path), path, record, 1)[0])
        return frame if self._image(number) is None else frame[:, ::-1]

    def _image(self, number: int) -> Sequence[float] | None:
        """The factors for the actions of episode `number` if it is a mirror image; None if it is as recorded."""
        return self.mirror if number % 2 else None

    def _reader(self, path: Path) -> ArrayRecordReader:
        with self._lock:
            if path not in self._readers:
                if len(self._readers) >= _readers_allowed():
                    # Dropped, not closed: another thread may still be reading; the last reference closes it.
                    self._readers.popitem(last=False)
                self._readers[path] = open_records(path)
            self._readers.move_to_end(path)
            return self._readers[path]


def _readers_allowed() -> int:
    """Number of readers that a store may keep open."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (
        OPEN_READERS
        if limit == resource.RLIM_INFINITY
        else max(1, min(OPEN_READERS, int(limit * SHARE_OF_DESCRIPTORS)))
    )


def split(number_of_episodes: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Training and held-out episode numbers, both sorted. At least one is held out if `fraction` > 0."""
    held_out = min(max(round(fraction * number_of_episodes), int(fraction > 0)), number_of_episodes - 1)
    order = np.random.default_rng(seed).permutation(number_of_episodes)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def _read_index(folder: Path, count: int | None) -> list[dict]:
    path = folder / INDEX
    with reading(path, "run the same command again: it is rebuilt from the episodes, and only missing episodes are "
                       "recorded"):  # fmt: skip
        data = path.read_bytes()
    try:
        entries = [json.loads(line) for line in data.splitlines()]
        for entry in entries:
            Header(**{key: value for key, value in entry.items() if key not in ("file", "bytes")})
            _ = entry["file"], entry["bytes"]
        numbers = [entry["number"] for entry in entries]
        if numbers != list(range(len(numbers) if count is None else count)):
            wanted = "episodes counted from 0" if count is None else f"{count} episodes"
            raise ValueError(f"{len(numbers)} of {wanted}, in this order: {', '.join(map(str, numbers[:8])) or 'none'}")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedError(
            f"{path} is damaged: expected one episode a line as JSON, found {error}; delete this file and run "
            "the same command again: it is rebuilt from the episodes, and no episode is recorded again"
        ) from error
    return entries
