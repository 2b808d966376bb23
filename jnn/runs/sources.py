"""Where the batches of a run come from: arrays in memory, or a stream."""

import base64
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import jax
import numpy as np

from jnn.runs import segments
from jnn.trainings import count_examples, fit
from jnn.types import Training, TrainState


class Held:
    """Arrays in memory, of which a batch is a function of the key and the step, as in `jnn.fit`."""

    seekable = True

    def __init__(self, training: Training, data, *, key, rows: int, batch_size: int | None, limit: float, skip: bool):
        if batch_size is not None and not 1 <= batch_size <= count_examples(data, "run"):
            examples = count_examples(data, "run")
            raise ValueError(f"run: batch_size must lie between 1 and the {examples} examples, got {batch_size}")
        self.data = jax.tree.map(jax.numpy.asarray, data)
        self._key, self._batch_size, self._rows = key, batch_size, rows
        options = {"rows": rows, "batch_size": batch_size, "skip": skip}
        self._advance = lambda state, steps: segments.advance(training, self.data, key, state, limit, steps, **options)
        self.waited, self.skip = 0.0, skip

    def begun(self, training: Training, key) -> TrainState:
        return fit(training, self.data, key=key, steps=0, batch_size=self._batch_size).train_state

    def sizes(self) -> dict[str, int]:
        """Of a batch: examples, and tokens where they are integers (examples, time)."""
        return {} if self._batch_size is None else _sizes(self.data, self._batch_size)

    def batch(self):
        """Of what shapes and dtypes a batch is."""
        return jax.eval_shape(self.batch_at, 0)

    def start(self, step: int, position, lengths: Iterator[int]) -> None:
        """From here on."""

    def advance(self, train_state, length: int):
        return self._advance(train_state, length)

    def batch_at(self, step: int):
        return segments.batch_at(self.data, self._key, step, batch_size=self._batch_size)

    def position(self):
        """Where it is, for a checkpoint."""
        return

    def about(self) -> dict[str, Any]:
        """What must be the same for a run to go on."""
        return {"batch_size": self._batch_size, "examples": self._batch_size and count_examples(self.data, "run")}

    def close(self) -> None:
        pass


class Streamed:
    """Batches of an iterable, as of `jnn.data.stream` or Grain's, read ahead by a segment in a thread of its own.

    It can be checkpointed where its iterator has `get_state` and `set_state`."""

    def __init__(self, training: Training, stream, *, rows: int, limit: float, skip: bool):
        self._stream, self._rows = stream, rows
        self._advance = lambda state, batches, steps: segments.advance_on(training, batches, state, limit, steps, skip=skip)
        self._iterator = iter(stream)
        self._begin = _position(self._iterator)
        self.seekable = self._begin is not None
        self._first: Any = None
        try:
            self._first = next(self._iterator)
        except StopIteration:
            raise ValueError("run: the stream has no batch") from None
        self._reader = None
        self._reached = self._begin
        self.waited, self.skip = 0.0, skip

    def begun(self, training: Training, key) -> TrainState:
        return fit(training, self._placed(self._first), key=key, steps=0).train_state

    def sizes(self) -> dict[str, int]:
        examples = len(jax.tree.leaves(self._first)[0])
        return _sizes(self._first, getattr(self._stream, "batch_size", examples))

    def batch(self):
        return self._first

    def start(self, step: int, position, lengths: Iterator[int]) -> None:
        """From here on, from the first batch or from `position`; lengths: of the segments to come."""
        self.close()
        # the first batch was read to know its shapes; to seek back for it would start a stream's readers twice
        pushed = [self._first] if self._reader is None and position is None else []
        if not pushed:
            _seek(self._iterator, self._begin if position is None else position)
        self._ahead: queue.Queue = queue.Queue(maxsize=1)
        self._stop = threading.Event()
        self._reader = threading.Thread(target=self._read, args=(step, pushed, lengths), name="reader", daemon=True)
        self._reader.start()

    def _read(self, step: int, pushed: list, lengths: Iterator[int]) -> None:
        try:
            for length in lengths:
                batches = []
                while len(batches) < length and not self._stop.is_set():
                    batches.append(pushed.pop() if pushed else next(self._iterator, None))
                    if batches[-1] is None:
                        self._put(ValueError(f"run: the stream ended after {step + len(batches) - 1} steps"))
                        return
                # fewer than a whole segment are filled up, so that one program does for all lengths
                filled = batches + batches[-1:] * (self._rows - length)
                self._put((self._placed(jax.tree.map(lambda *rows: np.stack(rows), *filled), None), _position(self._iterator)))
                step += length
                if self._stop.is_set():
                    return
        except BaseException as error:  # raised where the batches are waited for
            self._put(error)

    def _placed(self, batches, *before: None):
        """On the devices; of a stream with a sharding, the parts of all processes together as one array. before: None for each
        axis in front of the examples."""
        cut = getattr(self._stream, "sharding", None)
        if cut is None:
            if jax.process_count() > 1:
                raise ValueError("run: of several processes each reads a part of a batch: the stream wants a sharding")
            return jax.device_put(batches)
        cut = jax.sharding.NamedSharding(cut.mesh, jax.sharding.PartitionSpec(*before, *cut.spec))
        at, rows = len(before), self._stream.batch_size

        def put(a):
            return jax.make_array_from_process_local_data(cut, a, (*a.shape[:at], rows, *a.shape[at + 1 :]))

        return jax.tree.map(put, batches)

    def _put(self, item) -> None:
        while not self._stop.is_set():
            with suppress(queue.Full):
                self._ahead.put(item, timeout=0.2)
                return

    def advance(self, train_state, length: int):
        began = time.perf_counter()
        item = self._ahead.get()
        self.waited += time.perf_counter() - began
        if isinstance(item, BaseException):
            raise item
        batches, self._reached = item
        return self._advance(train_state, batches, length)

    def batch_at(self, step: int):
        """The batch after the last segment."""
        batches, _ = self._ahead.get()
        return jax.tree.map(lambda a: a[0], batches)

    def position(self):
        return self._reached

    def about(self) -> dict[str, Any]:
        return {"stream": type(self._stream).__qualname__}

    def close(self) -> None:
        if self._reader is not None:
            self._stop.set()
            self._reader.join()


def _position(iterator):
    """As JSON has it; None for an iterator that cannot tell."""
    if not hasattr(iterator, "get_state") or not hasattr(iterator, "set_state"):
        return None
    state = iterator.get_state()
    return {"base64": base64.b64encode(state).decode()} if isinstance(state, bytes) else {"state": state}


def _seek(iterator, position) -> None:
    iterator.set_state(base64.b64decode(position["base64"]) if "base64" in position else position["state"])


def _sizes(data, examples: int) -> dict[str, int]:
    inputs = jax.tree.leaves(data)[0]
    tokens = np.ndim(inputs) == 2 and np.issubdtype(inputs.dtype, np.integer)
    return {"examples": examples, **({"tokens": examples * inputs.shape[1]} if tokens else {})}
