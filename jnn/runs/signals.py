"""A run that is asked to stop: at the end of a segment, with nothing lost."""

import os
import signal
import threading
from types import FrameType
from typing import Any

from jnn.checkpoints import processes
from jnn.runs.watching import say

PATIENCE = 2.0  # seconds
_within: list["Requests"] = []


class Requests:
    """Within `with`, SIGTERM (what a scheduler sends before it takes a machine away) and the first Ctrl-C are noted rather than
    obeyed. A second Ctrl-C raises KeyboardInterrupt, and where XLA keeps the main thread for more than two seconds ends the
    process. Outside the main thread, where Python has no signals, nothing is noted."""

    def __init__(self):
        self._noted: int | None = None
        self._before: dict[int, Any] = {}
        self._left = threading.Event()

    def __enter__(self) -> "Requests":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
            self._heard, self._bell = os.pipe()
            os.set_blocking(self._bell, False)
            self._bell_before = signal.set_wakeup_fd(self._bell, warn_on_full_buffer=False)
            threading.Thread(target=self._listen, args=(self._heard,), name="signals", daemon=True).start()
            _within.append(self)
        return self

    def __exit__(self, *_) -> None:
        self._left.set()
        if self in _within:
            _within.remove(self)
            signal.set_wakeup_fd(self._bell_before)
            os.close(self._bell)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def forked(self) -> None:
        """In a child of this process, which is no part of the run: a signal that it gets is none to the run, and SIGTERM ends
        it. The first Ctrl-C does not, since it may read data for what is left of the segment."""
        _within.remove(self)
        signal.set_wakeup_fd(self._bell_before)
        os.close(self._bell)
        os.close(self._heard)
        signal.signal(signal.SIGTERM, self._before[signal.SIGTERM])

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._noted == signal.SIGINT:
            raise KeyboardInterrupt
        self._noted = number

    def _listen(self, heard: int) -> None:
        """Python calls a handler when the main thread comes back from XLA, after a segment; this thread is told at once."""
        interrupts = 0
        while number := os.read(heard, 1):
            interrupts += number[0] == signal.SIGINT
            if interrupts == 2 and not self._left.wait(PATIENCE):
                say("run: interrupted twice, and ended within a segment")
                os._exit(128 + signal.SIGINT)
        os.close(heard)

    def noted(self) -> int | None:
        """The signal that any process of the run has been sent; all processes get the same answer."""
        return max(processes.of_all(self._noted or 0)) or None


def _forked() -> None:
    for requests in _within[::-1]:
        requests.forked()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forked)
