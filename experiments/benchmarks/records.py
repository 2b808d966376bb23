"""What the benchmarks share: timing in turns, and writing down what was found and where."""

import json
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from jnn.comparison import environment


def in_turns(contestants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, np.ndarray]:
    """name -> seconds (rounds,) of each, run in turns after one uncounted turn."""
    for run in contestants.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    return {name: np.array(values) for name, values in seconds.items()}


def spread(values) -> dict[str, float]:
    """The median and the range."""
    return {"median": float(np.median(values)), "least": float(np.min(values)), "most": float(np.max(values))}


def write(out: Path, name: str, results: dict):
    """Writes OUT/name.json with the environment beside the results."""
    out.mkdir(parents=True, exist_ok=True)
    where = {"date": datetime.now(UTC).isoformat(timespec="seconds"), **environment.describe()}
    (out / f"{name}.json").write_text(json.dumps({"results": results, "environment": where}, indent=1) + "\n")
    print(f"written: {out / f'{name}.json'}")
