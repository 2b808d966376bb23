"""Faults in the calls by which a process writes files, Python's own and those of libraries in C++.

`preloaded()` builds faults.c (with the C compiler `cc`) and sets LD_PRELOAD; in processes that are started from then on,
`Faults` kills at a chosen call, or has it give an error, and keeps a log of the calls. Linux alone.
"""

import ctypes
import os
import subprocess
from pathlib import Path


def preloaded(folder: Path) -> None:
    """Processes that this one starts from now on load the library, which is built in `folder`."""
    library = folder / "faults.so"
    source = Path(__file__).with_name("faults.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    os.environ["LD_PRELOAD"] = str(library)


class Faults:
    """Those of this process, from here on, in calls that touch what lies below a folder."""

    def __init__(self, folder: Path, log: Path | None = None):
        self._library = ctypes.CDLL(os.environ["LD_PRELOAD"])
        self._library.faults_watch(str(folder.absolute()).encode(), None if log is None else str(log).encode())

    def arm(self, call: int, error: int = 0) -> None:
        """The call of this number, from now on, gives the error, or kills the process where there is none. -1: no call."""
        self._library.faults_arm(ctypes.c_long(call), error)

    def calls(self) -> int:
        """Since `arm`."""
        self._library.faults_calls.restype = ctypes.c_long
        return self._library.faults_calls()

    def close(self) -> None:
        self.arm(-1)
        self._library.faults_watch(b"", None)


def unsynced(log: Path, folder: Path) -> tuple[list[Path], list[Path]]:
    """-> files below `folder` that were written to since they were last synced, or never were; and all files below it."""
    dirty: dict[str, bool] = {}
    for line in log.read_text().splitlines():
        kind, path, to = line.split("\t")
        if kind in ("write", "sync"):
            dirty[path] = kind == "write"
        elif kind == "rename":  # of a file, or of a folder with all that is in it
            moved = {name: to + name[len(path) :] for name in dirty if name == path or name.startswith(path + "/")}
            dirty |= {new: dirty.pop(old) for old, new in moved.items()}
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [path for path in files if dirty.get(str(path.absolute()), True)], files
