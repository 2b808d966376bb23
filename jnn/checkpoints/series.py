"""The checkpoints of a run: a folder for each, named by its step, written in the background and kept as long as asked."""

import os
import socket
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from jnn.checkpoints import arrays, files, manifests, processes
from jnn.checkpoints.files import Loaded
from jnn.checkpoints.manifests import CheckpointError, Manifest
from jnn.numbers import whole


class Checkpoints(NamedTuple):
    """Where and how often a run keeps its state.

    folder: of the run; a checkpoint of step 400 is `folder/000000400`.
    every: steps between two; None for one a minute.
    keep: so many of the last; best: and the best by this metric, as in history, "eval/loss"; largest: of which more is better.
    timeout: seconds after which a save that is still under way is an error.
    """

    folder: str | os.PathLike
    every: int | None = None
    keep: int = 3
    best: str | None = None
    largest: bool = False
    timeout: float = 1200.0


def checked(kept: Checkpoints) -> Checkpoints:
    """With the folder's full path, whatever folder the process changes to. Raises ValueError for what cannot be."""
    folder = os.fspath(kept.folder)
    if not folder or "://" in folder:
        raise ValueError(f"Checkpoints: folder is one of a file system that is mounted, got {folder!r}")
    if kept.every is not None:
        whole("Checkpoints", "every", kept.every)
    whole("Checkpoints", "keep", kept.keep)
    if not kept.timeout > 0:
        raise ValueError(f"Checkpoints: timeout must be positive, got {kept.timeout}")
    return kept._replace(folder=Path(folder).expanduser().absolute(), timeout=min(kept.timeout, 1e8))


def steps(folder: str | os.PathLike) -> list[int]:
    """Of the complete checkpoints in the folder of a run, ascending: those that have a manifest."""
    folder = Path(folder)
    return sorted(int(path.name) for path in _folders(folder) if files.is_complete(path)) if folder.exists() else []


def at(folder: str | os.PathLike, step: int) -> Path:
    """The checkpoint's own folder."""
    return Path(folder) / f"{step:09d}"


def _folders(folder: Path) -> list[Path]:
    """Of checkpoints, complete or not; a folder that somebody named "7" or "2024" is none."""
    return [path for path in folder.iterdir() if path.name.isdecimal() and path == at(folder, int(path.name)) and path.is_dir()]


def latest(folder: str | os.PathLike, like: Callable[[Manifest], Any]) -> tuple[int, Loaded] | None:
    """-> (step, Loaded) of the newest whole checkpoint, or None where there is none at all.

    like(manifest) gives the tree that is to be loaded, as of `load`; it may raise where a checkpoint is not one to go on from.
    A damaged one is passed over with a warning that names its file. Raises CheckpointError where none of them is whole."""
    found = steps(folder)
    newest = processes.of_all(found[-1] if found else -1)
    if len(set(newest)) > 1:
        raise CheckpointError(f"{folder} is to be shared by all processes: they see as the newest checkpoints {newest}")
    for step in reversed(found):
        try:
            return step, files.load(at(folder, step), like(manifests.read(at(folder, step))))
        except manifests.DamagedError as error:
            warnings.warn(f"{error}; going back to the checkpoint before", RuntimeWarning, stacklevel=2)
    if found:
        raise CheckpointError(f"{folder}: all checkpoints, of steps {', '.join(map(str, found))}, are damaged")
    return None


class Writer:
    """Writes checkpoints one after another, each in the background: training goes on when the arrays are copied.

    An error of a save is raised by the next `save`, by `wait` or by `close`: none is lost. There is one writer to a folder:
    another one raises CheckpointError, until this is closed or its process has ended."""

    def __init__(self, kept: Checkpoints):
        import orbax.checkpoint as ocp

        options = ocp.AsyncOptions(timeout_secs=max(int(kept.timeout), 1))
        self.kept = kept
        self._orbax = ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler(), async_options=options)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._began = 0.0
        manifests.make_folder(Path(kept.folder))
        if processes.is_first():
            with _closed_by_errors(_locked(Path(kept.folder))) as self._lock:
                for path in _folders(Path(kept.folder)):
                    if _is_left(path):
                        files.remove(path)

    def save(self, step: int, tree, about: Mapping[str, Any]) -> None:
        """Returns when the arrays are copied; `tree` may be donated then. Waits for the save before, and raises its error."""
        self.wait()
        folder = at(self.kept.folder, step)
        there = files.is_complete(folder)
        entries = arrays.described(tree)
        try:
            if processes.is_first() and not there and folder.exists() and not _is_left(folder):
                raise FileExistsError(f"{folder} is there and no checkpoint")
            if processes.is_first() and not there:
                files.remove(folder)
                folder.mkdir(parents=True)
            if processes.of_all(there)[0]:
                return
            arrays.write(self._orbax, folder / "arrays", tree)
        except Exception as error:
            raise self._failed(error) from error
        arguments = folder, entries, dict(about)
        self._thread = threading.Thread(target=self._finish, args=arguments, name="checkpoint", daemon=True)
        self._began = time.monotonic()
        self._thread.start()

    def wait(self) -> None:
        """Until the save under way is on the disk, for all processes. Raises its error, once."""
        error = self._joined()
        failed = processes.of_all(error is not None)
        self._raise(error)
        if any(failed):
            raise CheckpointError(f"the checkpoint could not be written to {self.kept.folder} by process {failed.index(1)}")

    def close(self) -> None:
        """Of this process alone: the others may have stopped."""
        try:
            self._raise(self._joined())
        finally:
            if self._thread is None:  # else it would be waited for without end
                self._orbax.close()
            if processes.is_first():
                self._lock.close()

    def _joined(self) -> BaseException | None:
        if self._thread is not None:
            self._thread.join(max(self._began + self.kept.timeout - time.monotonic(), 0.0))
            if self._thread.is_alive():
                return TimeoutError(f"it took more than {self.kept.timeout:g} seconds")
            self._thread = None
        error, self._error = self._error, None
        return error

    def _raise(self, error: BaseException | None) -> None:
        if error is not None:
            raise self._failed(error) from error

    def _failed(self, error: BaseException) -> CheckpointError:
        return CheckpointError(f"the checkpoint could not be written to {self.kept.folder}: {error}")

    def go_on(self, step: int) -> None:
        """From the checkpoint of this step. Those of later ones are damaged: they are set aside, as `000000400.damaged`, and
        neither stand in the way of new ones nor count as kept."""
        if processes.is_first():
            for later in steps(self.kept.folder):
                if later > step:
                    folder = at(self.kept.folder, later)
                    aside = folder.with_name(f"{folder.name}.damaged")
                    files.remove(aside)
                    folder.rename(aside)

    def _finish(self, folder: Path, entries: Mapping[str, dict], about: Mapping[str, Any]) -> None:
        try:
            self._orbax.wait_until_finished()
            if processes.is_first():
                manifests.seal(folder, entries, about)
                self._prune()
        except BaseException as error:  # raised where it is waited for
            self._error = error

    def _prune(self) -> None:
        found = steps(self.kept.folder)
        keep = set(found[-self.kept.keep :])
        if self.kept.best is not None:
            values = {}
            for step in found:
                with suppress(manifests.DamagedError):  # it is said when it is loaded
                    value = manifests.read(at(self.kept.folder, step)).about.get("metrics", {}).get(self.kept.best)
                    if value is not None:
                        values[step] = value
            if values:
                keep.add((max if self.kept.largest else min)(values, key=values.__getitem__))
        for step in set(found) - keep:
            files.remove(at(self.kept.folder, step))


def _is_left(path: Path) -> bool:
    """Whether it is what a killed process left of a checkpoint, which takes room; nobody else's folder."""
    return not files.is_complete(path) and all(
        below.name.startswith(("arrays", f".{manifests.NAME}")) for below in path.iterdir()
    )


_locks: weakref.WeakSet = weakref.WeakSet()


def _forked() -> None:
    # a lock is held by all who have inherited its file; to close it here leaves it to the parent alone
    for file in _locks:
        file.close()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forked)


def _locked(folder: Path):
    """A file that is open and locked; the system unlocks it when it is closed, or the process ends."""
    import fcntl

    file = open(folder / ".lock", "a+")  # noqa: SIM115  it stays open, and so locked, until `close`
    _locks.add(file)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise CheckpointError(f"{folder}: another run writes its checkpoints there: {holder}") from None
    except OSError:
        pass  # a file system that has no locks
    with _closed_by_errors(file):
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
    return file


@contextmanager
def _closed_by_errors(file):
    """A lock would last as long as somebody holds the error, whose frames hold the file."""
    try:
        yield file
    except BaseException:
        with suppress(OSError):
            file.close()
        raise
