"""An error at each call of a save."""

import errno
import json
import shutil
from pathlib import Path

from experiments.benchmarks.reliability.contestants import CONTESTANTS, EVERY, Contestant
from experiments.benchmarks.reliability.faults import Faults
from experiments.benchmarks.reliability.trials import FORKED, prepared

ERRORS = {"no space": errno.ENOSPC, "input/output error": errno.EIO, "time-out": errno.ETIMEDOUT}


def _inject(name: str, work: Path, stride: int, result: Path) -> None:
    """In a child: an error at each call of a save."""
    prepared(work)
    contestant = CONTESTANTS[name]
    base, folder = work / f"{name}.base", work / f"{name}.injected"
    steps = 3 * EVERY
    contestant.train(base, 2 * EVERY)
    expected = contestant.train(None, steps)
    found = {}
    for title, number in ERRORS.items():
        counts = dict.fromkeys(("calls", "raised", "harmless", "swallowed", "earlier damaged", "not gone on"), 0)
        faults = Faults(folder)
        calls = _injected(contestant, faults, base, folder, steps, -1, number)[1]
        for call in range(0, calls, stride):
            outcome, _ = _injected(contestant, faults, base, folder, steps, call, number)
            counts["calls"] += 1
            if outcome is None:
                ended = contestant.there(folder)[-1:] == [steps] and contestant.whole(folder)[-1:] == [steps]
                counts["harmless" if ended else "swallowed"] += 1
            else:
                counts["raised"] += 1
            counts["earlier damaged"] += 2 * EVERY not in contestant.whole(folder)
            try:
                counts["not gone on"] += contestant.train(folder, steps) != expected
            except Exception:
                counts["not gone on"] += 1
        faults.close()
        found[title] = counts
    result.write_text(json.dumps(found))


def _injected(contestant: Contestant, faults: Faults, base: Path, folder: Path, steps: int, call: int, number: int):
    """-> the error that was raised or None, and the calls that were made."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(base, folder)
    faults.arm(call, number)
    try:
        contestant.train(folder, steps)
        return None, faults.calls()
    except Exception as error:
        return error, faults.calls()
    finally:
        faults.arm(-1)


def injections(name: str, work: Path, stride: int) -> dict:
    result = work / f"{name}.faults"
    process = FORKED.Process(target=_inject, args=(name, work, stride, result))
    process.start()
    process.join()
    return json.loads(result.read_text())
