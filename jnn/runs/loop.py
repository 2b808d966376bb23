"""A training run in compiled segments, with what happens between them."""

import math
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jnn import checkpoints
from jnn import tree as trees
from jnn.checkpoints import Checkpoints, DamagedError, files, manifests, processes
from jnn.checkpoints.series import Writer, checked
from jnn.closures import holds_tracer
from jnn.data.streams import Stream
from jnn.numbers import whole
from jnn.runs import segments
from jnn.runs.peaks import seconds_at_peak
from jnn.runs.record import Record, like, require_metric, require_same
from jnn.runs.signals import Requests
from jnn.runs.sources import Held, Streamed
from jnn.runs.watching import Apart, Display, Lines, Profile, Report, say
from jnn.types import Training, TrainState

MINUTE = 60.0


class Run(NamedTuple):
    """The end of a run."""

    train_state: TrainState
    history: dict[str, Any]  # as of `jnn.fit`, in numpy arrays
    best: TrainState | None  # of the best evaluation, where `patience` or the checkpoints' `best` asks for it
    skipped: np.ndarray  # the steps that were skipped


class DivergedError(RuntimeError):
    """A loss that is not finite, or above the limit, or parameters that are not finite. step: the first that may be it."""

    def __init__(self, message: str, step: int, path: str, folder: Path | None):
        super().__init__(message)
        self.step, self.path, self.folder = step, path, folder


class Plan(NamedTuple):
    """What a run is to do."""

    training: Training
    steps: int
    segment: int
    kept: Checkpoints | None
    eval_data: Any
    begun: int  # steps that the state has taken with which the run began
    spacing: int  # steps between evaluations, counted from there as in `jnn.fit`; 0 for none
    metric: str  # by which an evaluation is the best
    largest: bool
    patience: int | None
    limit: float
    about: dict[str, Any]  # what must be the same for a run to go on
    begin: Callable[[], TrainState]

    def lengths(self, step: int) -> Iterator[int]:
        """Of the segments from here on: they end where an evaluation or a checkpoint is due."""
        while step < self.steps:
            length = min(self.segment, self.steps - step)
            for every, taken in ((self.spacing, step - self.begun), (self.kept.every if self.kept else None, step)):
                length = min(length, every - taken % every) if every else length
            yield length
            step += length

    def is_evaluated(self, step: int) -> bool:
        return self.spacing > 0 and step > self.begun and (step - self.begun) % self.spacing == 0


class Live:
    """A run that is under way."""

    def __init__(self, plan: Plan, source: Held | Streamed, writer: Writer | None):
        self.plan, self._source, self._writer = plan, source, writer
        self.record, self._best = Record(), None
        if writer and not source.seekable:
            raise ValueError("run: this stream cannot be checkpointed: its iterator has no get_state and set_state")
        self.train_state, position = self._resumed() or (plan.begin(), None)
        self.step = int(self.train_state.step)
        if self.step > plan.steps:
            raise ValueError(f"run: {plan.steps} steps, where the state to go on from has taken {self.step}")
        self._require_metric()
        self._saved = time.monotonic()
        source.start(self.step, position, plan.lengths(self.step))
        self._safe = None if writer or jax.process_count() > 1 or not source.seekable else self._snapshot()
        self._at_peak = seconds_at_peak(plan.training, self.train_state, source.batch())

    def _resumed(self):
        """-> TrainState and position of the newest whole checkpoint, and its record; None where there is none."""
        writer = self._writer
        if writer is None:
            return None

        def asked(manifest):
            require_same(manifest, self.plan.about, writer.kept.folder)
            return like(manifest, self.plan.begin())  # arrays and not shapes: they know on which devices they lie

        found = checkpoints.latest(writer.kept.folder, asked)
        if found is None:
            return None
        writer.go_on(found[0])
        self.record = Record()
        for name, values in found[1].tree.items():
            if name != "train_state":
                self.record.add(name, values)
        return found[1].tree["train_state"], found[1].about["position"]

    def _require_metric(self) -> None:
        """Wrong data for the evaluation, and a metric that it has not, are found before the first step."""
        if self.plan.spacing:
            scores = jax.eval_shape(partial(segments.evaluate, self.plan.training), self.train_state, self.plan.eval_data)
            require_metric({f"eval/{path}" for path in trees.flatten(scores)}, self.plan.metric)

    def _snapshot(self):
        return jax.device_get(self.train_state), self._source.position()

    def advance(self, length: int) -> Report:
        """One segment, and the evaluation that is due after it."""
        began, waited = time.perf_counter(), self._source.waited
        self.train_state, metrics, good, finite = self._source.advance(self.train_state, length)
        metrics, good = jax.tree.map(lambda a: a[:length], jax.device_get((metrics, good)))
        if not good.all() and not self._source.skip:
            bad = int(np.argmin(good))
            raise self._diverged(self.step + bad, metrics["loss"][bad : bad + 1])
        if not finite:
            raise self._diverged(self.step, metrics["loss"])
        if not good.any():
            text = (
                f"run: all steps from {self.step} to {self.step + length - 1} were skipped: their losses or parameters are bad"
            )
            warnings.warn(text, RuntimeWarning, stacklevel=3)
        self.record.add("skipped", np.flatnonzero(~good) + self.step)
        self.record.add("steps", metrics)
        self.step += length
        evaluation = {}
        if self.plan.is_evaluated(self.step):
            evaluation = jax.device_get(segments.evaluate(self.plan.training, self.train_state, self.plan.eval_data))
            self.record.add("eval", jax.tree.map(lambda a: np.asarray(a)[None], evaluation))
        seconds = time.perf_counter() - began
        rates = {"steps": length / seconds, **{name: n * length / seconds for name, n in self._source.sizes().items()}}
        waiting = (self._source.waited - waited) / seconds
        peak = None if self._at_peak is None else length * self._at_peak / seconds
        return Report(self.step, self.plan.steps, metrics, evaluation, seconds, rates, waiting, peak, ~good)

    def keep(self, now: bool) -> None:
        """Saves a checkpoint where one is due, or `now`, and then waits until it is on the disk."""
        plan = self.plan
        evaluated = plan.is_evaluated(self.step)
        improved = evaluated and self._since_best() == 0
        if self._writer is None:
            if improved and plan.patience is not None:
                self._best = jax.device_get(self.train_state)
            if self._safe is not None and self._is_late():
                self._safe, self._saved = self._snapshot(), time.monotonic()
            return
        kept = self._writer.kept
        due = self.step % kept.every == 0 if kept.every else self._is_late()
        if now or due or (improved and kept.best is not None) or self.step == plan.steps:
            value = float(self.record.of_evaluations(plan.metric)[-1]) if evaluated else math.nan
            metrics = {plan.metric: value} if math.isfinite(value) else {}
            said = {"run": plan.about, "metrics": metrics, "position": self._source.position()}
            self._writer.save(self.step, {"train_state": self.train_state, **self.record.tree()}, said)
            self._saved = time.monotonic()
        if now:
            self._writer.wait()

    def _is_late(self) -> bool:
        """Whether the last save is a minute ago, by the clock of the first process."""
        return bool(processes.of_all(time.monotonic() - self._saved >= MINUTE)[0])

    def _since_best(self) -> int:
        """Evaluations since the best one."""
        values = self.record.of_evaluations(self.plan.metric)
        return len(values) - 1 - self.record.best(self.plan.metric, self.plan.largest)

    def enough(self) -> bool:
        patience = self.plan.patience
        return patience is not None and self.record.whole("eval") is not None and self._since_best() >= patience

    def ended(self) -> Run:
        if self._writer is not None:
            self.keep(now=True)
            if self._writer.kept.best is not None:
                self._best = self._load_best(self._writer.kept.folder)
        skipped = self.record.whole("skipped")
        return Run(self.train_state, self.record.history(), self._best, np.zeros(0, int) if skipped is None else skipped)

    def _load_best(self, folder) -> TrainState | None:
        """Of the best evaluation whose checkpoint is whole."""
        for i in self.record.ranked(self.plan.metric, self.plan.largest):
            at = checkpoints.at(folder, self.plan.begun + self.plan.spacing * (i + 1))
            if not files.is_complete(at):  # not kept
                continue
            try:
                return checkpoints.load(at, like(manifests.read(at), self.train_state)).tree["train_state"]
            except DamagedError as error:
                warnings.warn(f"{error}; taking the next best", RuntimeWarning, stacklevel=2)
        return None

    def _diverged(self, first: int, losses) -> DivergedError:
        """Takes the steps from the last safe state on again, which are the same, to look at what was bad. first: the first
        step that may be it; losses: of the steps that may be it."""
        loss = float(losses[0])
        if not self._source.seekable:
            at = "what was not finite is not known, as the stream cannot be read again"
            if len(losses) > 1:
                what = f"the parameters are not finite after the steps {first} to {first + len(losses) - 1}"
            else:
                what = f"the loss of step {first} is {loss:g}"
            return DivergedError(f"run: {what}; {at}", first, "", None)
        if self._writer is not None:
            self._writer.wait()
        self.train_state, position = self._safe or self._resumed() or (self.plan.begin(), None)
        step = int(self.train_state.step)
        again = self.plan._replace(steps=first, spacing=0)
        self._source.start(step, position, chain(again.lengths(step), repeat(1, len(losses))))
        for length in again.lengths(step):
            self.train_state, *_ = self._source.advance(self.train_state, length)
        for bad, one in enumerate(losses, first):
            loss = float(one)
            path, after = segments.first_bad(self.plan.training, self.train_state, self._source.batch_at(bad))
            if bad == first + len(losses) - 1 or segments.not_finite(after) > segments.not_finite(self.train_state):
                break
            self.train_state = after
        folder = None
        if self._writer is not None:
            folder = Path(self._writer.kept.folder) / "diverged" / f"{bad:09d}"
            if not processes.of_all(files.is_complete(folder))[0]:
                if processes.is_first():
                    files.remove(folder)  # what a killed process left
                processes.of_all(0)  # before that none looks there
                checkpoints.save(folder, {"train_state": self.train_state}, {"loss": str(loss), "path": path})
        cause = f"the first array that is not finite is {path}" if path else f"above the limit of {self.plan.limit:g}"
        where = f"; the state before that step is in {folder}" if folder else ""
        return DivergedError(f"run: the loss of step {bad} is {loss:g}: {cause}{where}", bad, path, folder)


@contextmanager
def _together(live: Live):
    """Says what is to be done where another process of the run is lost."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        text = (
            f"run: process {jax.process_index()} of {jax.process_count()} stops after step {live.step}, as it has lost "
            "another: see what that one said. Start all of them again, and they go on from the newest checkpoint"
        )
        # at once: jax may end this process before the exception is seen
        say(text)
        raise RuntimeError(text) from error


def run(
    training: Training,
    data,
    *,
    key,
    steps: int,
    batch_size: int | None = None,
    start: TrainState | None = None,
    eval_data=None,
    eval_every: int | None = None,
    patience: int | None = None,
    segment: int = 100,
    checkpoint: Checkpoints | str | os.PathLike | None = None,
    diverged: str = "stop",
    limit: float = math.inf,
    hooks: tuple[Callable[[Report], Any], ...] = (),
    profile: int = 0,
    progress: bool = True,
) -> Run:
    """`jnn.fit` for hours and days: the same steps in segments, each one compiled program, and between them progress, reports,
    checkpoints. The parameters and the history are those of `fit`, bit for bit on the same device and versions, whatever the
    length of a segment and however often the run was stopped and went on.

    data: a pytree of arrays, of which a batch is a function of key and step; or an iterable of batches, as of
        `jnn.data.stream` or Grain's, whose position goes into the checkpoints.
    checkpoint: a folder, or `jnn.Checkpoints(folder, every=..., keep=..., best=...)`. The same call again goes on from the
        newest whole checkpoint in it; of a run that had ended it returns what that returned. `log.jsonl` has a line a segment.
    segment: steps between two looks: a signal, a checkpoint, a report wait for the end of a segment.
    start, steps: a TrainState to go on from, and the steps in all, those of `start` among them.
    eval_data: evaluated whole, with train=False, after every `eval_every` steps (default: once, at the end).
    patience: stop when so many evaluations in a row brought nothing better; `Run.best` is the state of the best one.
    diverged: what to do where a loss is not finite or above `limit`, or the parameters are not finite. "stop": raise
        DivergedError, which names the step and the first array that is not finite; the state before that step is saved in
        `folder/diverged`. "skip": leave out each such step; `Run.skipped` lists them.
    hooks: functions that are given each `Report`, each in a thread of its own: what hangs or fails costs no step, and is said.
        Those that have a `close`, as `jnn.runs.tensorboard`, are closed at the end.
    profile: whole segments, from the second one on, until they have so many steps, are traced by `jax.profiler` into
        `folder/profile`.
    progress: a display in a terminal, elsewhere a line every ten seconds, on standard error.

    Of several processes (`jax.distributed.initialize`) all call it alike, with a training of `jnn.sharding.shard` and a folder
    that all of them see; the first one logs and calls the hooks. Where one of them dies the others stop with a RuntimeError.

    On SIGTERM, to any process, the segment is finished, a checkpoint written and SystemExit(0) raised (143 without
    `checkpoint`); on Ctrl-C likewise KeyboardInterrupt, and a second one quits at once. Raises what `fit` raises;
    CheckpointError for checkpoints of another run or model and for a save that failed; DivergedError.
    """
    steps, segment = whole("run", "steps", steps, least=0), whole("run", "segment", segment)
    if diverged not in ("stop", "skip"):
        raise ValueError(f"run: diverged is 'stop' or 'skip', got {diverged!r}")
    if eval_data is None and (eval_every is not None or patience is not None):
        raise ValueError("run: eval_every and patience want eval_data")
    if whole("run", "profile", profile, least=0) and checkpoint is None:
        raise ValueError("run: a profile is written beside the checkpoints: give `checkpoint`, a folder")
    training = Training(*training)
    kept = Checkpoints(checkpoint) if isinstance(checkpoint, str | os.PathLike) else checkpoint
    kept = kept and checked(kept)
    if kept is not None and kept.best is not None and eval_data is None:
        raise ValueError(f"run: checkpoints that keep the best by {kept.best!r} want eval_data")
    metric, largest = (kept.best or "eval/loss", kept.largest) if kept else ("eval/loss", False)
    if kept is not None and patience is not None:
        kept = kept._replace(best=metric)
    if patience is not None:
        whole("run", "patience", patience)
    begun = 0 if start is None else int(start.step)
    own = max(steps - begun, 1)
    spacing = 0 if eval_data is None else whole("run", "eval_every", own if eval_every is None else eval_every)
    if spacing > own:
        raise ValueError(f"run: eval_every must lie between 1 and the {own} steps, got {eval_every}")
    if eval_data is not None and _is_stream(eval_data):
        raise TypeError("run: eval_data are arrays: of a stream take as many batches as are to be judged, in one")
    # of one row XLA makes another program, which rounds otherwise
    options = {"rows": max(segment, 2), "limit": limit, "skip": diverged == "skip"}
    streamed = _is_stream(data)
    if holds_tracer((key, start, None if streamed else data)):
        raise TypeError("run: it writes files and cannot be traced; inside jit, vmap and grad take `jnn.fit`")
    if not streamed:
        source = Held(training, data, key=key, batch_size=batch_size, **options)
    elif batch_size is not None:
        raise ValueError("run: a stream has batches already: leave batch_size out")
    else:
        source = Streamed(training, data, **options)
    about = {
        "key": np.asarray(jax.random.key_data(key)).tolist(),
        "start": begun,
        "eval_every": spacing,
        **source.about(),
    }

    def begin() -> TrainState:
        # copies of `start`: the segments give their buffers up, and these are the caller's
        return jax.tree.map(jnp.copy, start) if start is not None else source.begun(training, key)

    plan = Plan(training, steps, segment, kept, eval_data, begun, spacing, metric, largest, patience, limit, about, begin)
    with ExitStack() as stack:
        stack.enter_context(closing(source))
        requests = stack.enter_context(Requests())
        live = Live(plan, source, stack.enter_context(closing(Writer(kept))) if kept else None)
        watchers, tracer = [], None
        if processes.is_first():
            tracer = Profile(Path(kept.folder) / "profile", profile) if kept else None
            watchers += [Lines(Path(kept.folder) / "log.jsonl", live.step)] if kept else []
            watchers += [tracer] if tracer else []
            watchers += [Display(live.step, steps)] if progress else []
            watchers += [Apart(hooks)] if hooks else []
        for watcher in watchers:
            stack.enter_context(closing(watcher))
        stack.enter_context(_together(live))
        for length in plan.lengths(live.step):
            if live.enough():
                break
            if tracer:
                tracer.before()
            report = live.advance(length)
            for watch in watchers:
                watch(report)
            noted = requests.noted()
            live.keep(now=noted is not None)
            if noted is not None:
                raise _stopped(noted, kept)
        ended = live.ended()
        noted = requests.noted()
        if noted is not None:
            raise _stopped(noted, kept)
        return ended


def _stopped(number: int, kept: Checkpoints | None) -> BaseException:
    if number == signal.SIGTERM:
        return SystemExit(0 if kept else 128 + signal.SIGTERM)  # 0: nothing is lost
    return KeyboardInterrupt()


def _is_stream(data) -> bool:
    if isinstance(data, Stream) or hasattr(data, "__next__"):
        return True
    return not all(isinstance(leaf, np.ndarray | np.generic | jax.Array | float | int) for leaf in jax.tree.leaves(data))
