"""A run that is asked to stop: at the end of a segment, with nothing lost."""

import signal
import threading
from types import FrameType
from typing import Any

from jnn.checkpoints import processes


class Requests:
    """Within `with`, SIGTERM (what a scheduler sends before it takes a machine away) and the first Ctrl-C are noted rather than
    obeyed; a second Ctrl-C quits at once. Outside the main thread, where Python has no signals, nothing is noted."""

    def __init__(self):
        self._noted: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Requests":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._noted == signal.SIGINT:
            raise KeyboardInterrupt
        self._noted = number

    def noted(self) -> int | None:
        """The signal that any process of the run has been sent; all processes get the same answer."""
        return max(processes.of_all(self._noted or 0)) or None
