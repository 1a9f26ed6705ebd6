"""Training data of V: batches of single frames, or of pairs of consecutive frames, shuffled over all training episodes
and read from disk."""

from collections.abc import Iterator, Sequence

import grain
import numpy as np

from wm_jax.data.episodes import EpisodeStore

THREADS = 4
PREFETCHED = 256
"""Frames read ahead; memory does not depend on the data's size."""


class FrameSource:
    """The frames of some episodes as Grain's random-access source: index → uint8 [64, 64, 3]. With `pairs`: [2, 64, 64,
    3], the previous frame and the frame itself. An episode's first frame is its own previous frame."""

    def __init__(self, store: EpisodeStore, episodes: Sequence[int] | np.ndarray, pairs: bool = False):
        self.store, self.pairs = store, pairs
        self.episodes = np.asarray(episodes, np.int64)
        self.ends = np.cumsum(store.lengths[self.episodes])

    def __len__(self) -> int:
        return int(self.store.lengths[self.episodes].sum())

    def __getitem__(self, index: int) -> np.ndarray:
        place = int(np.searchsorted(self.ends, index, side="right"))
        first = int(self.store.starts[self.episodes[place]])
        number = int(first + index - self.ends[place] + self.store.lengths[self.episodes[place]])
        frame = self.store.frame(number)
        return np.stack([self.store.frame(max(first, number - 1)), frame]) if self.pairs else frame


def frame_batches(
    store: EpisodeStore,
    episodes: Sequence[int] | np.ndarray,
    batch_size: int,
    seed: int,
    start: int,
    stop: int,
    part: tuple[int, int] = (0, 1),
    pairs: bool = False,
) -> Iterator[np.ndarray]:
    """Batches `start` to `stop` - 1 of an endless shuffled sequence: uint8 [B, 64, 64, 3], with `pairs` [B, 2, 64, 64,
    3] (see `FrameSource`).

    Every frame appears once before any appears again. Batch i depends only on `seed` and i, so a training resumed at
    step `start` sees the same batches as one without a stop. With `part` (p, n), only the p-th of n equal parts of each
    batch is read: B / n frames.
    """
    frames = grain.MapDataset.source(FrameSource(store, episodes, pairs)).shuffle(seed=seed).repeat()
    index, count = part
    batches = frames.batch(batch_size // count)[start * count + index : stop * count : count]
    yield from batches.to_iter_dataset(grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=PREFETCHED))
