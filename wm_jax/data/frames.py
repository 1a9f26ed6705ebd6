"""What V is trained on: batches of single frames, shuffled over all training episodes, straight from disk."""

from collections.abc import Iterator, Sequence

import grain
import numpy as np

from wm_jax.data.episodes import EpisodeStore

THREADS = 4
PREFETCHED = 256
"""Batches are cut from frames that this many reads run ahead; memory does not depend on the data's size."""


class FrameSource:
    """The frames of some episodes as Grain's random-access source; index → uint8 [64, 64, 3]."""

    def __init__(self, store: EpisodeStore, episodes: Sequence[int] | np.ndarray):
        self.store = store
        self.episodes = np.asarray(episodes, np.int64)
        self.ends = np.cumsum(store.lengths[self.episodes])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> np.ndarray:
        place = int(np.searchsorted(self.ends, index, side="right"))
        number = self.episodes[place]
        return self.store.frame(int(self.store.starts[number] + index - self.ends[place] + self.store.lengths[number]))


def frame_batches(
    store: EpisodeStore,
    episodes: Sequence[int] | np.ndarray,
    batch_size: int,
    seed: int,
    start: int,
    stop: int,
    part: tuple[int, int] = (0, 1),
) -> Iterator[np.ndarray]:
    """Batches `start` to `stop` - 1 of an endless shuffled sequence: uint8 [B, 64, 64, 3].

    Every frame comes once before any comes again. Batch i depends on `seed` and i alone, so that a training that goes
    on at step `start` sees what it would have seen without the stop. With `part` (p, n) only the p-th of n equal parts of
    each batch is read: [B / n, 64, 64, 3].
    """
    frames = grain.MapDataset.source(FrameSource(store, episodes)).shuffle(seed=seed).repeat()
    index, count = part
    batches = frames.batch(batch_size // count)[start * count + index : stop * count : count]
    yield from batches.to_iter_dataset(grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=PREFETCHED))
