"""Random access to the frames of many recorded episodes, in memory that does not grow with their size."""

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from wm_jax.data.records import (
    INDEX,
    RECORDS_BEFORE_FRAMES,
    Episode,
    Header,
    checked_frame,
    damaged,
    missing,
    open_records,
    read_episode,
    read_records,
)
from wm_jax.errors import UserError

OPEN_READERS = 500
"""Opening a file costs more than reading a frame; this many stay open."""


class EpisodeStore:
    """The episodes of one or more folders (rounds), one after the other; frames are numbered through all of them.

    Safe to read from several threads. Raises `UserError` that names the file where one is missing, truncated or altered.
    """

    def __init__(self, folders: Sequence[str | Path]):
        entries = [(Path(folder), entry) for folder in folders for entry in _read_index(Path(folder))]
        self.paths = [folder / entry.pop("file") for folder, entry in entries]
        sizes = [entry.pop("bytes") for _, entry in entries]
        self.headers = [Header(**entry) for _, entry in entries]
        for path, size in zip(self.paths, sizes, strict=True):
            if not path.is_file():
                raise missing(path)
            if path.stat().st_size != size:
                raise damaged(path, f"{size} bytes", f"{path.stat().st_size} bytes")
        self.lengths = np.array([header.length for header in self.headers], np.int64)
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)[:-1]]).astype(np.int64)
        self.number_of_frames = int(self.lengths.sum())
        self._readers: OrderedDict[int, ArrayRecordReader] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """E: number of episodes."""
        return len(self.paths)

    def episode(self, number: int) -> Episode:
        """Episode `number`, counted through all folders, read whole."""
        return read_episode(self.paths[number])

    def frame(self, index: int) -> np.ndarray:
        """Frame `index` of all N: uint8 [64, 64, 3]."""
        if not 0 <= index < self.number_of_frames:
            raise IndexError(f"frame {index} of {self.number_of_frames}")
        number = int(np.searchsorted(self.starts, index, side="right")) - 1
        path = self.paths[number]
        record = RECORDS_BEFORE_FRAMES + int(index) - int(self.starts[number])
        return checked_frame(path, read_records(self._reader(number), path, record, 1)[0])

    def _reader(self, number: int) -> ArrayRecordReader:
        with self._lock:
            if number not in self._readers:
                self._readers[number] = open_records(self.paths[number])
                if len(self._readers) > OPEN_READERS:
                    # Dropped, not closed: another thread may be reading; the last reference closes it.
                    self._readers.popitem(last=False)
            self._readers.move_to_end(number)
            return self._readers[number]


def split(number_of_episodes: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Training and held-out episode numbers, both sorted; at least one is held out where `fraction` > 0."""
    held_out = min(max(round(fraction * number_of_episodes), int(fraction > 0)), number_of_episodes - 1)
    order = np.random.default_rng(seed).permutation(number_of_episodes)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def _read_index(folder: Path) -> list[dict]:
    path = folder / INDEX
    if not path.is_file():
        raise UserError(
            f"{path} does not exist; run the same command again: it is rebuilt from the episodes, and only those that are "
            "missing are recorded"
        )
    try:
        entries = [json.loads(line) for line in path.read_text().splitlines()]
        for entry in entries:
            Header(**{key: value for key, value in entry.items() if key not in ("file", "bytes")})
            _ = entry["file"], entry["bytes"]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged: expected one episode a line as JSON, found {error}; delete this file and run "
            "the same command again: it is rebuilt from the episodes, none of which is recorded twice"
        ) from error
    return entries
