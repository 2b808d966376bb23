"""What is finished is kept: stopped at any moment, the same comparison goes on and ends as if undisturbed."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

import jnn
from jnn.comparison import plans, protocol, store, studies
from jnn.comparison.errors import InputError
from jnn.comparison.tasks import Examples

from tiny import blobs, tiny_task

PAIR = {"adam": jnn.optim.adam, "sgd": jnn.optim.sgd}
SCRIPT = """
import sys
import jax
jax.config.update("jax_platforms", "cpu")
import test_store
test_store.compare(sys.argv[1])
"""


def compare(out):
    jnn.compare(PAIR, [tiny_task(), tiny_task("second", steps=16)], trials=2, studies=4, out=out)


def started(out) -> subprocess.Popen:
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1]), str(Path(jnn.__file__).parents[1])])
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(out)], env=environment, stderr=subprocess.DEVNULL)


def without_times(folder) -> str:
    """The file as it stands, to the order of its names."""
    content = json.loads((folder / "results.json").read_text())
    for name in ("date", "seconds"):
        del content["environment"][name]
    content.pop("timing", None)
    return json.dumps(content)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    compare(out)
    return out


def killed_and_resumed(out, moment) -> int:
    """Kills a run when `moment(out)` is true, resumes it, and gives the number of cells that were kept."""
    process = started(out)
    while process.poll() is None and not moment(out):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = len(cells(out))
    compare(out)
    return kept


def cells(out) -> list[Path]:
    return list((out / "cells").glob("*.npz"))


def at(seconds):
    began = time.monotonic()
    return lambda out: time.monotonic() - began > seconds


MOMENTS = {
    "the folder is there": lambda out: out.exists(),
    "the first cell is kept": lambda out: len(cells(out)) >= 1,
    "the report is being written": lambda out: (out / "timing.json").exists(),
}


@pytest.mark.parametrize(
    "moment",
    [pytest.param(moment, marks=[pytest.mark.slow] * ("cell" not in name), id=name) for name, moment in MOMENTS.items()],
)
def test_killed_at_any_moment_it_resumes_to_the_same_results(undisturbed, tmp_path, moment):
    kept = killed_and_resumed(tmp_path / "out", moment)
    assert kept >= {"the folder is there": 0, "the first cell is kept": 1}.get(moment, 0)
    assert without_times(tmp_path / "out") == without_times(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", np.linspace(0.5, 12.0, 12))
def test_killed_at_many_moments(undisturbed, tmp_path, seconds):
    killed_and_resumed(tmp_path / "out", at(seconds))
    assert without_times(tmp_path / "out") == without_times(undisturbed)


def plan_of(task=None, **changes):
    arguments = {"reference": "adam", "spaces": {}, "trials": 2, "studies": 2, "margin": 0.01, "seed": 0} | changes
    return plans.make_plan(PAIR, [task or tiny_task()], **arguments)


def test_the_same_call_again_runs_nothing_and_gives_the_same_file(tmp_path, monkeypatch):
    def again():
        return jnn.compare(PAIR, [tiny_task()], trials=2, studies=2, out=tmp_path)

    first = again()
    content = without_times(tmp_path)
    monkeypatch.setattr(protocol, "run_cell", None)  # it would raise
    monkeypatch.setattr(protocol, "measure", None)
    assert again().verdicts.equals(first.verdicts)
    assert without_times(tmp_path) == content


def test_a_cell_comes_back_as_it_was(tmp_path):
    plan = plan_of()
    kept = store.Store.claim(tmp_path / "out", store.identity(plan), overwrite=False)
    cell = studies.run_cell(plan, studies.Setup(plan.tasks[0], plan), plan.entrants[0])
    assert kept.load("tiny", "adam") is None
    kept.save("tiny", "adam", cell)
    loaded = kept.load("tiny", "adam")
    jax.tree.map(np.testing.assert_array_equal, loaded, cell)
    assert jax.tree.map(lambda a: np.asarray(a).dtype, loaded) == jax.tree.map(lambda a: np.asarray(a).dtype, cell)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"trials": 3}, "optimizers.adam.trials is 2 and 3"),
        ({"seed": 1}, "protocol.seed is 0 and 1"),
        ({"task": tiny_task(batch_size=8)}, "tasks.tiny.batch_size is 10 and 8"),
        ({"task": tiny_task("other")}, "tasks.tiny is only in the first; tasks.other is only in the second"),
        ({"spaces": {"sgd": {"learning_rate": 0.1}}}, "optimizers.sgd.spaces.learning_rate is "),
    ],
)
def test_a_folder_of_another_comparison_is_refused_and_the_difference_named(tmp_path, changes, words):
    store.Store.claim(tmp_path, store.identity(plan_of()), overwrite=False)
    about = store.identity(plan_of(**changes))
    with pytest.raises(InputError) as error:
        store.Store.claim(tmp_path, about, overwrite=False)
    assert f"{tmp_path} holds another comparison: {words}" in str(error.value)
    store.Store.claim(tmp_path, about, overwrite=True)
    store.Store.claim(tmp_path, about, overwrite=False)


def test_other_data_are_another_comparison(tmp_path):
    def shifted(by):
        points, labels = blobs().pool
        return Examples((points + np.float32(by), labels))

    first, second = (store.identity(plan_of(tiny_task(load=lambda by=by: shifted(by)))) for by in (0, 1))
    assert [line.split(" is ")[0] for line in store.differences(first, second)] == ["tasks.tiny.data"]


def typed(b1: float):
    """A function as from a notebook: no file holds it."""
    names = {"__name__": "__main__"}
    exec(f"import jnn\ndef mine(learning_rate): return jnn.optim.adam(learning_rate, b1={b1})", names)
    return names["mine"]


def closed_over(b1: float):
    return lambda learning_rate: jnn.optim.adam(learning_rate, b1=b1)


@pytest.mark.parametrize("make", [typed, closed_over])
def test_an_optimizer_that_only_its_program_tells_from_another_is_another(make):
    def identity(b1):
        return store.identity(
            plans.make_plan({"adam": jnn.optim.adam, "mine": make(b1)}, [tiny_task()], "adam", {}, 2, 2, 0.01, 0)
        )

    found = store.differences(identity(0.9), identity(0.5))
    assert [line.split(" is ")[0] for line in found] == ["optimizers.mine.programs.tiny"]
    assert identity(0.9) == identity(0.9)


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": jnn.schedules.constant},
        {"objective": jnn.supervised(jnn.dense(3), jnn.losses.softmax_cross_entropy)},
    ],
)
def test_a_task_that_only_its_program_tells_from_another_is_another(changes):
    found = store.differences(store.identity(plan_of()), store.identity(plan_of(tiny_task(**changes))))
    assert {line.split(" is ")[0] for line in found} == {"optimizers.adam.programs.tiny", "optimizers.sgd.programs.tiny"}


def test_where_a_function_lies_in_memory_is_no_difference():
    def identity():
        pair = {
            "adam": jnn.optim.adam,
            "masked": partial(optax.adamw, mask=lambda params: jax.tree.map(lambda a: a.ndim > 1, params)),
        }
        return store.identity(plans.make_plan(pair, [tiny_task()], "adam", {}, 2, 2, 0.01, 0))

    assert store.differences(identity(), identity()) == []


def test_overwritten_nothing_of_the_other_comparison_is_left(tmp_path):
    plan, other = plan_of(), plan_of(seed=1)
    kept = store.Store.claim(tmp_path, store.identity(plan), overwrite=False)
    cell = studies.run_cell(plan, studies.Setup(plan.tasks[0], plan), plan.entrants[0])
    kept.save("tiny", "adam", cell)
    (tmp_path / "results.json").write_text("{}")
    taken = store.Store.claim(tmp_path, store.identity(other), overwrite=True)
    assert not (tmp_path / "results.json").exists()
    kept.save("tiny", "adam", cell)  # of a process that has not noticed
    kept.save_timing({"tiny": {}})
    assert taken.load("tiny", "adam") is None
    assert taken.load_timing() is None


def test_killed_while_it_overwrites_the_folder_stays_its_own(tmp_path, monkeypatch):
    plan, other = plan_of(), plan_of(seed=1)
    store.Store.claim(tmp_path, store.identity(plan), overwrite=False).save_timing({})
    removed = []

    def unlink(path, **_):
        if removed:
            raise KeyboardInterrupt
        removed.append(path)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "unlink", unlink)
        store.Store.claim(tmp_path, store.identity(other), overwrite=True)
    with pytest.raises(InputError, match="holds another comparison"):
        store.Store.claim(tmp_path, store.identity(other), overwrite=False)


def test_a_folder_is_for_one_process_at_a_time(tmp_path):
    with store.held(tmp_path), pytest.raises(InputError, match="another process is at work in"):
        compare(tmp_path)
    with store.held(tmp_path):
        pass


def test_a_damaged_cell_is_named(tmp_path):
    plan = plan_of()
    kept = store.Store.claim(tmp_path, store.identity(plan), overwrite=False)
    cell = studies.run_cell(plan, studies.Setup(plan.tasks[0], plan), plan.entrants[0])
    kept.save("tiny", "adam", cell)
    (file,) = (tmp_path / "cells").iterdir()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"\.npz is damaged"):
        kept.load("tiny", "adam")
    file.write_bytes(content[:100])
    with pytest.raises(InputError, match=r"\.npz is damaged"):
        kept.load("tiny", "adam")


def test_results_of_an_older_kind_are_not_overwritten(tmp_path):
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(InputError, match="holds results already"):
        store.Store.claim(tmp_path, {}, overwrite=False)
    assert (tmp_path / "results.json").read_text() == "{}"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="cannot be written"):
        store.Store.claim(tmp_path / "out", {}, overwrite=False)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        store.Store.claim(tmp_path / "file", {}, overwrite=False)
