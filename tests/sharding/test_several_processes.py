"""A run of two processes on one machine, two devices each, beside the same run of one process on one device."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import two_processes

from jnn import checkpoints

SCRIPT = Path(two_processes.__file__)
FLAGS = "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count=2"


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return two_processes.going(two_processes.TRAINING, tmp_path_factory.mktemp("alone"))


@pytest.fixture
def started():
    """Starts both processes of a run; none outlives the test."""
    running = []

    def start(folder, seconds_an_example=0.0, **axes):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        environment = {**os.environ, "XLA_FLAGS": FLAGS, "SECONDS_AN_EXAMPLE": str(seconds_an_example), "JAX_PLATFORMS": "cpu"}
        environment["PYTHONPATH"] = os.pathsep.join([str(SCRIPT.parents[2]), os.environ.get("PYTHONPATH", "")])
        for index in "01":
            command = [sys.executable, str(SCRIPT), str(folder), json.dumps(axes), port, "2", index]
            running.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
        return running[-2:]

    yield start
    for process in running:
        process.kill()
        process.communicate()


def ended(process, seconds=120.0):
    _, errors = process.communicate(timeout=seconds)
    return process.returncode, errors


def assert_same_as(alone, folder, shard):
    for index in (0, 1):
        told = json.loads((folder / f"told_{index}.json").read_text())
        assert told["devices"] == [2, 4]
        np.testing.assert_allclose(told["losses"], alone.history["loss"], rtol=1e-5)
        np.testing.assert_allclose(told["evaluations"], alone.history["eval"]["loss"], rtol=1e-5)
        assert told["shards"] == 2 * [shard]
    kept = checkpoints.load(checkpoints.at(folder, two_processes.STEPS)).tree["train_state"]
    for name, part in (("params", alone.train_state.params), ("state", alone.train_state.state)):
        for there, expected in zip(jax.tree.leaves(kept[name]), jax.tree.leaves(part), strict=True):
            np.testing.assert_allclose(there, expected, rtol=1e-4, atol=1e-5)
    lines = (folder / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4, 6, 8, 10, 12]


def test_two_processes_compute_what_one_computes(alone, started, tmp_path):
    for process in started(tmp_path, data=4):
        code, errors = ended(process)
        assert code == 0, errors
    assert checkpoints.steps(tmp_path) == [4, 8, 12]
    assert_same_as(alone, tmp_path, [6, 4])


def at_step(folder, step, process):
    """Waits for a checkpoint."""
    while step not in checkpoints.steps(folder):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)


@pytest.mark.slow
def test_processes_that_hold_the_same_examples_read_the_same(alone, started, tmp_path):
    for process in started(tmp_path, data=1, model=4):
        code, errors = ended(process)
        assert code == 0, errors
    assert_same_as(alone, tmp_path, [6, 4])


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_one_is_killed_the_other_stops_and_both_go_on(alone, started, tmp_path, killed):
    both = started(tmp_path, seconds_an_example=1.0, data=4)
    at_step(tmp_path, 4, both[0])
    both[killed].kill()
    code, errors = ended(both[1 - killed], 60)
    assert code != 0
    # who keeps the list of processes is told by jax itself
    assert "Terminating process because the JAX distributed service detected fatal errors" in errors or (
        f"run: process {1 - killed} of 2 stops" in errors and "they go on from the newest checkpoint" in errors
    )
    assert max(checkpoints.steps(tmp_path)) < two_processes.STEPS
    for process in started(tmp_path, data=4):
        code, errors = ended(process)
        assert code == 0, errors
    assert_same_as(alone, tmp_path, [6, 4])


@pytest.mark.slow
def test_a_signal_to_one_stops_both_with_a_checkpoint(alone, started, tmp_path):
    both = started(tmp_path, seconds_an_example=1.0, data=4)
    at_step(tmp_path, 4, both[0])
    both[1].send_signal(signal.SIGTERM)
    for process in both:
        code, errors = ended(process)
        assert code == 0, errors
    assert 4 < max(checkpoints.steps(tmp_path)) < two_processes.STEPS or checkpoints.steps(tmp_path) == [4]
    for process in started(tmp_path, data=4):
        code, errors = ended(process)
        assert code == 0, errors
    assert_same_as(alone, tmp_path, [6, 4])
