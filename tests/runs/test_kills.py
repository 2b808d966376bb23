"""A run that is killed at any moment and started again ends as if undisturbed."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from contextlib import suppress

import jax
import numpy as np
import pytest
from test_run import ADAM, BATCH, DATA, KEY, assert_equal_runs, going

import jnn
from experiments.benchmarks.reliability.contestants import CONTESTANTS
from jnn import checkpoints
from jnn.checkpoints import CheckpointError, Checkpoints
from jnn.checkpoints.series import Writer, _locked
from jnn.runs import run

ENDS = 75  # steps, 25 checkpoints
FORKED = multiprocessing.get_context("forkserver")  # imports what takes seconds once for all children
FORKED.set_forkserver_preload(["experiments.benchmarks.reliability.contestants", "orbax.checkpoint", "pytest"])


def kill_at(kind, number):
    """This process kills itself at the call of this number: of os.fsync, or of what Python's audit knows."""
    left = [number]

    def count(event, *_):
        if event == kind:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sync = os.fsync
    os.fsync = lambda number: count("os.fsync") or sync(number)
    sys.addaudithook(count)


def child(folder, kind, number):
    """In a process of its own."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_compilation_cache_dir", str(folder / "programs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    warnings.simplefilter("ignore")
    if kind:
        kill_at(kind, number)
    digest = CONTESTANTS["jnn"].train(folder / "run", ENDS)
    (folder / "digest").write_text(digest)


def begun(folder, kind=None, number=0):
    process = FORKED.Process(target=child, args=(folder, kind, number))
    process.start()
    return process


def reached(folder):
    return CONTESTANTS["jnn"].reached(folder / "run")


POINTS = [
    ("os.mkdir", 1),  # Orbax makes the folders of a checkpoint
    ("os.rename", 1),  # and gives it its name
    ("os.fsync", 30),  # the files of a checkpoint are synced
    ("os.rename", 4),  # a manifest is given its name
    ("os.fsync", 61),
    ("os.remove", 30),  # old checkpoints are taken away
    ("shutil.rmtree", 2),
]


def test_ten_kills(tmp_path):
    rng = np.random.default_rng(0)
    for kind, number in POINTS:
        process = begun(tmp_path, kind, number)
        process.join(120)
        assert process.exitcode == -signal.SIGKILL, (kind, number)
    for _ in range(3):
        process, before = begun(tmp_path), (tmp_path / "run" / "log.jsonl").stat().st_mtime_ns
        while process.is_alive() and (tmp_path / "run" / "log.jsonl").stat().st_mtime_ns == before:
            time.sleep(0.01)
        process.join(rng.uniform(0.0, 0.05))
        process.kill()
        process.join(120)
        assert process.exitcode == -signal.SIGKILL
    found = checkpoints.steps(tmp_path / "run")
    assert 0 < found[-1] < ENDS  # it got on, and had not ended
    assert reached(tmp_path) - found[-1] <= 6  # two checkpoints: one was under way when the next was due
    process = begun(tmp_path)
    process.join(120)
    assert process.exitcode == 0
    assert (tmp_path / "digest").read_text() == CONTESTANTS["jnn"].train(None, ENDS)


ASKED = """
import sys
import jax, numpy as np
import jnn
say = lambda: print("within a segment", flush=True)
training = jnn.training(jnn.supervised(jnn.dense(3), jnn.losses.softmax_cross_entropy), jnn.optim.sgd(0.1))
def step(state, batch, **options):
    # later ones would bring Python's main thread back from XLA
    jax.lax.cond(state.step == 0, lambda: jax.debug.callback(say), lambda: None)
    return training.step(state, batch, **options)
data = np.zeros((8, 2), np.float32), np.zeros(8, np.int32)
options = {"segment": int(sys.argv[2]), "checkpoint": sys.argv[1], "progress": False}
jnn.run(jnn.Training(training.init, step), data, key=jax.random.key(0), steps=10**9, **options)
"""


@pytest.mark.parametrize(("segment", "numbers", "code"), [(20, [signal.SIGTERM], 0), (10**7, [signal.SIGINT] * 2, 130)])
def test_a_process_that_is_asked_to_stop(tmp_path, segment, numbers, code):
    """SIGTERM: at the end of the segment, with a checkpoint. Two Ctrl-C: at once, from within a segment of minutes."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", ASKED, str(tmp_path), str(segment)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "within a segment\n"
        for number in numbers:
            time.sleep(0.1)
            process.send_signal(number)
        try:
            assert process.wait(60) == code
        finally:
            process.kill()
    assert bool(checkpoints.steps(tmp_path)) == (numbers == [signal.SIGTERM])


FORKING = """
import os, signal, sys, threading, time
from pathlib import Path
from jnn.checkpoints.series import _locked
from jnn.runs import signals

def fork():
    if os.fork() == 0:
        os.write(told, b"%d" % os.getpid())
        time.sleep(60)
        os._exit(1)

signals.PATIENCE = 0.2
lock = _locked(Path(sys.argv[1]))
with signals.Requests() as requests:
    heard, told = os.pipe()
    hook = threading.Thread(target=fork)
    hook.start()
    hook.join()
    print(int(os.read(heard, 20)), flush=True)
    os.killpg(0, signal.SIGINT)
    time.sleep(0.6)
    print(requests.noted(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_forked_child_takes_no_part_in_a_run(tmp_path):
    """One Ctrl-C to both is one; the lock ends with the run, though the child lives on; and SIGTERM ends the child."""
    command = [sys.executable, "-W", "ignore", "-c", FORKING, str(tmp_path)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout
        try:
            child = int(process.stdout.readline())
            assert process.stdout.readline() == f"{int(signal.SIGINT)}\n"
            assert process.wait(60) == -signal.SIGKILL
            os.kill(child, 0)
            _locked(tmp_path).close()
            os.kill(child, signal.SIGTERM)
            assert process.communicate(timeout=20) == ("", None)  # nobody is left who could write
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


class Rows:
    """A source of a stream."""

    def __len__(self):
        return len(DATA[0])

    def __getitem__(self, i):
        return DATA[0][i], DATA[1][i]


def test_a_stream_that_is_stopped_anywhere_goes_on_with_the_next_batch(tmp_path):
    def streamed(steps, folder=None):
        kept = folder and Checkpoints(folder, every=4)
        data = jnn.data.stream(Rows(), batch_size=BATCH, seed=1)
        return run(ADAM, data, key=KEY, steps=steps, segment=3, checkpoint=kept, progress=False)

    whole = streamed(6)
    for stop in range(1, 6):
        streamed(stop, tmp_path / str(stop))
        assert_equal_runs(streamed(6, tmp_path / str(stop)), whole)


def test_a_second_run_in_the_same_folder_is_refused_while_the_first_goes_on(tmp_path, raises):
    writer = Writer(Checkpoints(tmp_path))
    holder = f"process {os.getpid()} on {socket.gethostname()}"
    with raises(CheckpointError, f"{tmp_path}: another run writes its checkpoints there: {holder}"):
        going(checkpoint=tmp_path)
    writer.close()
    going(steps=2, checkpoint=tmp_path)
    assert checkpoints.steps(tmp_path) == [2]


def test_a_damaged_checkpoint_is_set_aside_and_its_steps_are_taken_again(tmp_path):
    kept = Checkpoints(tmp_path, every=2, keep=1)
    going(steps=4, checkpoint=kept._replace(keep=2))
    path = checkpoints.at(tmp_path, 4) / "arrays" / "_METADATA"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(RuntimeWarning, match=f"{path} is damaged"):
        going(steps=3, checkpoint=kept)
    assert checkpoints.steps(tmp_path) == [3]
    assert (tmp_path / "000000004.damaged" / "manifest.json").exists()
    assert_equal_runs(going(steps=6, checkpoint=kept), going(steps=6))
    checkpoints.verify(checkpoints.at(tmp_path, 6))
