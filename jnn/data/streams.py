"""Batches without end of more examples than memory holds, read ahead while the device computes."""

import os
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jnn.data.errors import DataError
from jnn.numbers import whole


class Stream(NamedTuple):
    """Made by `stream`: an iterable of batches whose iterator can tell where it is, and be set there."""

    source: Any
    batch_size: int
    seed: int
    shuffle: bool
    epochs: int | None
    workers: int
    sharding: Any  # of a batch

    def __iter__(self):
        return StreamIterator(self)


def stream(
    source,
    *,
    batch_size: int,
    seed: int = 0,
    shuffle: bool = True,
    epochs: int | None = None,
    workers: int = 0,
    sharding=None,
) -> Stream:
    """Batches of a source (see `jnn.data.Tokens`), stacked along a new leading axis, read ahead by Grain.

    batch_size: of all processes together; each reads its own part of every batch: what the sharding puts on its devices.
    shuffle: a fresh permutation each epoch, picked by `seed`, in [0, 2**32); a batch may hold the end of one epoch and the
        beginning of the next.
    epochs: None for ever; else what is left at the end and fills no batch is dropped.
    workers: processes that read; 0 for threads, which do where reading is from files and not computing.
    sharding: a NamedSharding of a batch, as on a mesh of several processes, where each puts its part on its own devices,
        which divide a batch.

    A batch is a function of the seed and the step alone. So a run goes on with the very next batch from a fresh iterator, from
    any position, and with another number of workers or of processes as well.

    An example that cannot be read, or is not of the shapes and dtypes of example 0, raises DataError, which names it."""
    batch_size, workers = whole("stream", "batch_size", batch_size), whole("stream", "workers", workers, least=0)
    if not hasattr(source, "__len__") or not hasattr(source, "__getitem__"):
        raise TypeError(f"stream: a source has a length and examples by number, got {type(source).__name__}")
    if len(source) < 1:
        raise ValueError("stream: the source is empty")
    seed = whole("stream", "seed", seed, least=0, most=2**32 - 1)
    if batch_size % jax.process_count():
        raise ValueError(f"stream: a batch of {batch_size} is not to be shared by {jax.process_count()} processes")
    if not isinstance(sharding, NamedSharding | None):
        raise TypeError(f"stream: sharding must be a NamedSharding of a batch, got {type(sharding).__name__}")
    if sharding is not None:
        parts = sharding.mesh.size // _of_rows(sharding).shard_shape((sharding.mesh.size,))[0]
        if batch_size % parts:
            raise ValueError(f"stream: {parts} devices do not divide a batch of {batch_size} examples")
    if epochs is not None and whole("stream", "epochs", epochs) * len(source) < batch_size:
        raise ValueError(f"stream: {epochs} x {len(source)} examples fill no batch of {batch_size}")
    return Stream(source, batch_size, seed, shuffle, epochs, workers, sharding)


class StreamIterator:
    """The batches of this process, from any position on."""

    def __init__(self, stream: Stream):
        self._stream, self._batch, self._grain = stream, 0, None

    def __iter__(self):
        return self

    def __next__(self):
        if self._grain is None:
            self._grain = iter(_batches(self._stream, self._batch))
        try:
            batch = next(self._grain)
        except Exception:
            self._grain = None  # Grain's own goes on behind the batch that failed
            raise
        self._batch += 1
        return batch

    def get_state(self) -> dict:
        """As JSON has it."""
        asked = self._stream
        return {"batch": self._batch, "examples": len(asked.source), **{name: getattr(asked, name) for name in _ORDER}}

    def set_state(self, state: dict) -> None:
        """Raises ValueError for the position of a stream with other batches."""
        own = self.get_state()
        for name in ("examples", *_ORDER):
            if state[name] != own[name]:
                raise ValueError(
                    f"stream: this is the position of another stream: its {name} was {state[name]}, here {own[name]}"
                )
        self._batch, self._grain = state["batch"], None


_ORDER = ("batch_size", "seed", "shuffle")


def _batches(stream: Stream, first: int):
    import grain

    examples = grain.MapDataset.source(_Examples(stream.source))
    if stream.shuffle:
        examples = examples.shuffle(seed=stream.seed)
    part, parts = _part(stream)
    # the parts of a batch follow each other: together they are the batches of one process
    batches = examples.repeat(stream.epochs).batch(stream.batch_size // parts, drop_remainder=True)
    mine = batches[first * parts + part : len(batches) // parts * parts : parts]
    threads = min(16, 4 * (os.cpu_count() or 1))
    read = mine.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads))
    if stream.workers:
        from absl import flags

        if not flags.FLAGS.is_parsed():  # Grain asks for some that only a program of absl's own form has read
            flags.FLAGS.mark_as_parsed()
        read = read.mp_prefetch(grain.MultiprocessingOptions(num_workers=stream.workers))
    return read


class _Examples:
    """A source whose errors name the example, and whose examples are all alike."""

    def __init__(self, source):
        self._source = source
        first = self._read(0)
        self._form, self._shown = _form(first), _shown(first)
        if not jax.tree.leaves(first):  # Grain would look for the next example, for ever
            raise DataError(f"stream: example 0 holds no number: {first!r}")

    def __reduce__(self):  # the form of a pytree need not be one to be pickled
        return _Examples, (self._source,)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int):
        example = self._read(index)
        if _form(example) != self._form:
            raise DataError(f"stream: example {index} is {_shown(example)}, unlike example 0, {self._shown}")
        return example

    def _read(self, i: int):
        try:
            return self._source[i]
        except Exception as error:
            raise DataError(f"stream: example {i} cannot be read: {type(error).__name__}: {error}") from error


def _form(example):
    """Structure, shapes and dtypes; of text any length."""
    leaves, structure = jax.tree.flatten(example)
    return structure, [(np.shape(leaf), str if isinstance(leaf, str) else np.asarray(leaf).dtype) for leaf in leaves]


def _shown(example) -> str:
    return str(jax.tree.map(lambda leaf: f"{np.asarray(leaf).dtype} {np.shape(leaf)}", example)).replace("'", "")


def _part(stream: Stream) -> tuple[int, int]:
    """Which part of each batch this process reads, and of how many. Two processes whose devices hold the same examples, as
    where a layer is cut over both, read the same part."""
    if stream.sharding is None:
        return jax.process_index(), jax.process_count()
    found = _of_rows(stream.sharding).addressable_devices_indices_map((stream.batch_size,)).values()
    spans = {index[0].indices(stream.batch_size)[:2] for index in found if index}
    low, high = min(spans)[0], max(spans)[1]
    if sum(stop - start for start, stop in spans) != high - low or low % (high - low):
        raise ValueError("stream: the rows of a batch on the devices of one process do not follow each other")
    return low // (high - low), stream.batch_size // (high - low)


def _of_rows(sharding: NamedSharding) -> NamedSharding:
    return NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[:1]))
