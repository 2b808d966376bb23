"""Reliability as it was recorded, and the part of its harness that is quick."""

import json
import os
from pathlib import Path

import numpy as np

from experiments.benchmarks.reliability import damages, tables
from experiments.benchmarks.reliability.contestants import EVERY
from experiments.benchmarks.reliability.faults import unsynced

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "experiments" / "benchmarks" / "results"


def recorded():
    return json.loads((RESULTS / "reliability.json").read_text())["results"]


def test_the_page_shows_the_recorded_table():
    assert (RESULTS / "reliability.md").read_text() == tables.table(recorded())
    assert "{include} ../experiments/benchmarks/results/reliability.md" in (ROOT / "docs" / "reliability.md").read_text()


def test_nothing_bad_was_recorded_of_jnn():
    found = {part: results["jnn"] for part, results in recorded().items() if part in tables.PARTS}
    assert set(found) == set(tables.PARTS)
    for part in ("kills", "points"):
        assert found[part]["ended alike"] == found[part]["runs"] > 0
        assert found[part]["newest checkpoint unreadable"] == found[part]["errors"] == 0
        assert found[part]["steps lost"]["most"] <= 2 * EVERY
    for counts in found["injections"].values():
        assert counts["raised"] + counts["harmless"] == counts["calls"] > 0
        assert counts["earlier damaged"] == counts["not gone on"] == 0
    for counts in (found["cuts"], *found["flips"].values()):
        assert counts["noticed"] == counts["damaged"] > 0
        assert counts["gone back"] == counts["tried"] > 0
    assert found["power"] == {"files": found["power"]["files"], "not synced": 0, "afterwards": "same numbers"}


def test_damages_are_counted(tmp_path):
    found = damages.flips("jnn", tmp_path, 4, np.random.default_rng(0), back=2)
    assert found["files"] == {**damages._counted(), "damaged": 4, "noticed": 4, "gone back": 2, "tried": 2}
    assert found["manifest"]["damaged"] == found["manifest"]["noticed"] >= 4


def test_what_was_not_synced_is_told_by_the_log_of_calls(tmp_path):
    (tmp_path / "done").mkdir()
    for name in ("synced", "written", "later", "renamed"):
        (tmp_path / "done" / name).touch()
    at = f"{tmp_path}{os.sep}part"
    calls = [
        *(("write", f"{at}/synced", ""), ("sync", f"{at}/synced", ""), ("write", f"{at}/written", "")),
        *(("sync", f"{at}/later", ""), ("write", f"{at}/later", ""), ("write", f"{at}/lock", ""), ("sync", f"{at}/lock", "")),
        *(("rename", f"{at}/lock", f"{at}/renamed"), ("rename", at, f"{tmp_path}/done")),
    ]
    log = tmp_path / "log"
    log.write_text("".join("\t".join(call) + "\n" for call in calls))
    missed, files = unsynced(log, tmp_path / "done")
    assert [path.name for path in missed] == ["later", "written"]
    assert len(files) == 4
