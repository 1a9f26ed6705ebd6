"""Recorded episodes on disk: one ArrayRecord file for each episode, and a readable index.

FOLDER/000123.array_record: record 0 is the header (JSON), records 1 and 2 the actions and rewards (little-endian
float32), then one record for each frame, which can be read on its own. FOLDER/index.jsonl: one line for each episode,
taken from the headers. Frames are stored without loss as three planes modulo 256, which zstd compresses better and
faster than interleaved colours: green minus its left neighbour, red minus green, blue minus green.
"""

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from wm_jax.data.files import reading, replacing, require_readable, write_atomically
from wm_jax.errors import DamagedError
from wm_jax.tasks import FRAME_SHAPE

FORMAT = 1
INDEX = "index.jsonl"
RECORDS_BEFORE_FRAMES = 3
REMEDY = "delete this file and run the same command again: the episode is recorded again"
ABSENT = "run the same command again: the episode is recorded again"


@dataclass(frozen=True)
class Header:
    """Facts about an episode, known without reading its frames."""

    number: int
    task: str
    policy: str
    seed: int
    """Seed of the environment."""
    attempt: int
    """Number of shorter episodes discarded before this one."""
    length: int
    """T: number of steps, and of frames."""
    episode_return: float
    """Sum of rewards."""
    terminated: bool
    """Whether the episode terminated; False if it was cut off."""
    action_size: int
    format: int = FORMAT


@dataclass(frozen=True)
class Episode:
    """Frame t was seen before action t; reward t followed action t. The last observation is not stored."""

    frames: np.ndarray
    """uint8 [T, 64, 64, 3]"""
    actions: np.ndarray
    """float32 [T, A]"""
    rewards: np.ndarray
    """float32 [T]"""
    terminated: bool
    seed: int
    """Seed of the environment."""
    task: str
    policy: str = ""
    attempt: int = 0
    """Number of shorter episodes discarded before this one."""


def encode_frame(frame: np.ndarray) -> bytes:
    """uint8 [64, 64, 3] → the bytes of its planes."""
    # Copied into planes first: arithmetic on every third byte takes twice as long.
    red, green, blue = np.ascontiguousarray(frame.reshape(-1, 3).T)
    planes = np.empty((3, green.size), np.uint8)
    np.subtract(green[1:], green[:-1], out=planes[0, 1:])
    planes[0, :: frame.shape[1]] = green[:: frame.shape[1]]
    np.subtract(red, green, out=planes[1])
    np.subtract(blue, green, out=planes[2])
    return planes.tobytes()


def decode_frame(record: bytes) -> np.ndarray:
    """The inverse of `encode_frame`: uint8 [64, 64, 3]."""
    planes = np.frombuffer(record, np.uint8).reshape(3, *FRAME_SHAPE[:2])
    green = np.add.accumulate(planes[0], axis=1, dtype=np.uint8)
    frame = np.empty(FRAME_SHAPE, np.uint8)
    frame[..., 1] = green
    np.add(planes[1], green, out=frame[..., 0])
    np.add(planes[2], green, out=frame[..., 2])
    return frame


def episode_path(folder: str | Path, number: int) -> Path:
    """Path of episode `number`."""
    return Path(folder) / f"{number:06d}.array_record"


def write_episode(folder: str | Path, number: int, episode: Episode) -> Header:
    """Write the episode completely or not at all. Raises `UserError` if the disk is full or the folder is not
    writable."""
    header = Header(
        number=number,
        task=episode.task,
        policy=episode.policy,
        seed=episode.seed,
        attempt=episode.attempt,
        length=len(episode.frames),
        episode_return=float(episode.rewards.sum(dtype=np.float64)),
        terminated=episode.terminated,
        action_size=episode.actions.shape[1],
    )
    with replacing(episode_path(folder, number)) as unfinished:
        _write_records(unfinished, header, episode)
    return header


def _write_records(path: Path, header: Header, episode: Episode) -> None:
    path.touch()
    try:
        with closing(ArrayRecordWriter(str(path), "group_size:1,zstd:1,max_parallelism:1")) as writer:
            writer.write(json.dumps(asdict(header)).encode())
            writer.write(episode.actions.astype("<f4").tobytes())
            writer.write(episode.rewards.astype("<f4").tobytes())
            for frame in episode.frames:
                writer.write(encode_frame(frame))
    except (RuntimeError, ValueError) as error:
        # ArrayRecord reports a full disk as another error than `OSError`.
        raise OSError(str(error).splitlines()[0]) from error


def damaged(path: Path, expected: str, found: str) -> DamagedError:
    """An error that names a damaged file and says what to do."""
    return DamagedError(f"{path} is damaged: expected {expected}, found {found}; {REMEDY}")


def size(path: Path) -> int:
    """Bytes of an episode's file. Raises `UserError` if it is missing."""
    with reading(path, ABSENT):
        return path.stat().st_size


def open_records(path: Path) -> ArrayRecordReader:
    """A reader for single records; it keeps the file open. Raises `UserError` if the file is missing or truncated."""
    # ArrayRecord reports a file that cannot be opened as one without records.
    require_readable(path, ABSENT)
    try:
        return ArrayRecordReader(str(path), "readahead_buffer_size:0,max_parallelism:0", file_reader_buffer_size=2**15)
    except (RuntimeError, ValueError) as error:
        raise damaged(path, "a complete ArrayRecord file", str(error).splitlines()[0]) from error


def read_records(reader: ArrayRecordReader, path: Path, first: int, count: int) -> list[bytes]:
    """Records `first` to `first + count - 1`. Raises `UserError` if they are damaged."""
    try:
        records = reader.read(list(range(first, first + count)))
    except (RuntimeError, ValueError, IndexError) as error:
        with reading(path, ABSENT):
            # A read error of the disk is not damage.
            path.read_bytes()
        raise damaged(path, f"intact records {first} to {first + count - 1}", str(error).splitlines()[0]) from error
    return records


def _array(path: Path, record: bytes, shape: tuple[int, ...]) -> np.ndarray:
    if len(record) != 4 * int(np.prod(shape)):
        raise damaged(path, f"float32 {list(shape)}", f"{len(record)} bytes")
    values = np.frombuffer(record, "<f4").astype(np.float32).reshape(shape)
    if not np.isfinite(values).all():
        raise damaged(path, "finite actions and rewards", "NaN or infinity")
    return values


def checked_frame(path: Path, record: bytes) -> np.ndarray:
    """The decoded frame. Raises `UserError` if the record is not a frame."""
    if len(record) != int(np.prod(FRAME_SHAPE)):
        raise damaged(path, f"frames of {int(np.prod(FRAME_SHAPE))} bytes", f"one of {len(record)}")
    return decode_frame(record)


def _header(reader: ArrayRecordReader, path: Path) -> Header:
    try:
        header = Header(**json.loads(read_records(reader, path, 0, 1)[0]))
    except (ValueError, TypeError) as error:
        raise damaged(path, f"a header of format {FORMAT}", str(error)) from error
    if header.format != FORMAT:
        raise damaged(path, f"format {FORMAT}", f"format {header.format}")
    if reader.num_records() != header.length + RECORDS_BEFORE_FRAMES:
        found = reader.num_records() - RECORDS_BEFORE_FRAMES
        raise damaged(path, f"{header.length} frames", str(found))
    return header


def read_header(path: str | Path) -> Header:
    """The header, checked against the number of records. Raises `UserError` if the file is damaged."""
    return _header(open_records(Path(path)), Path(path))


def read_episode(path: str | Path) -> Episode:
    """The whole episode. Raises `UserError` if the file is damaged."""
    path = Path(path)
    reader = open_records(path)
    header = _header(reader, path)
    actions, rewards, *frames = read_records(reader, path, 1, header.length + RECORDS_BEFORE_FRAMES - 1)
    return Episode(
        frames=np.stack([checked_frame(path, record) for record in frames]),
        actions=_array(path, actions, (header.length, header.action_size)),
        rewards=_array(path, rewards, (header.length,)),
        terminated=header.terminated,
        seed=header.seed,
        policy=header.policy,
        task=header.task,
        attempt=header.attempt,
    )


def write_index(folder: str | Path, headers: Sequence[Header]) -> Path:
    """Write FOLDER/index.jsonl, sorted by number, completely or not at all. Raises `UserError` as `write_episode`
    does."""
    folder = Path(folder)
    lines = []
    for header in sorted(headers, key=lambda header: header.number):
        path = episode_path(folder, header.number)
        entry = asdict(header)
        lines.append(json.dumps({"file": path.name, **entry, "bytes": size(path)}) + "\n")
    write_atomically(folder / INDEX, "".join(lines).encode())
    return folder / INDEX
