"""What checkpoints, memory and reading cost, as it was recorded."""

import json
from pathlib import Path

from experiments.benchmarks import long_runs

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "experiments" / "benchmarks" / "results"


def recorded():
    return json.loads((RESULTS / "long_runs.json").read_text())["results"]


def test_the_page_shows_the_recorded_table():
    assert (RESULTS / "long_runs.md").read_text() == long_runs.table(recorded())
    assert "{include} ../experiments/benchmarks/results/long_runs.md" in (ROOT / "docs" / "reliability.md").read_text()


def test_what_was_recorded_is_little():
    found = recorded()
    assert set(found) == set(long_runs.PARTS)
    checkpoints = found["checkpoints"]["jnn"]
    assert checkpoints["share waiting"] + checkpoints["share slowed"] < 0.02
    assert checkpoints["saves"] >= 5
    memory = found["memory"]
    assert memory["steps"] == 100_000
    assert memory["bytes in the last tenth"] < 1.01 * memory["bytes in the second tenth"]
    reading = found["reading"]
    assert reading["bytes of the file"] >= 2 * 2**30
    assert reading["share waiting"] < 0.02
    assert reading["bytes at most"] - reading["bytes at first"] < 0.1 * reading["bytes of the file"]
