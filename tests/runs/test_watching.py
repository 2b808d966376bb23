"""What one sees of a run."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jnn
from jnn.runs import peaks, tensorboard, watching
from jnn.runs.watching import Report

DATA = np.arange(24, dtype=np.float32).reshape(8, 3) / 24, np.zeros((8, 2), np.float32)
TRAINING = jnn.training(jnn.supervised(jnn.dense(2), jnn.losses.squared_error), jnn.optim.sgd(0.1))
RUN = {"key": jax.random.key(0), "batch_size": 4, "progress": False}


def report(**changed):
    metrics = {"loss": np.array([3.0, 1.0], np.float32)}
    one = Report(2, 10, metrics, {"loss": 0.5}, 4.0, {"steps": 0.5, "examples": 1200.0}, 0.25, 0.4)
    return one._replace(**changed)


def test_a_report_as_numbers_and_as_a_line():
    assert report().scalars() == {
        "loss": 2.0,
        "eval/loss": 0.5,
        "per_second/steps": 0.5,
        "per_second/examples": 1200.0,
        "share_of_peak": 0.4,
    }
    line = "loss 2  eval/loss 0.5  0.5 steps/s  1.2k examples/s  40 % of peak  25 % of it waiting for data"
    assert watching.said(report()) == line
    assert watching.said(report(peak=None, waiting=0.0)) == "loss 2  eval/loss 0.5  0.5 steps/s  1.2k examples/s"


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (61, "1:01"), (3723, "1:02:03"), (90000, "25:00:00")])
def test_a_clock(seconds, text):
    assert watching.clock(seconds) == text


def test_the_share_of_the_peak_counts_a_steps_operations(monkeypatch):
    seen = []
    jnn.run(TRAINING, DATA, steps=2, hooks=(seen.append,), **RUN)
    assert seen[0].peak is None  # of a processor no peak is known
    monkeypatch.setattr(peaks, "PEAKS", {jax.devices()[0].device_kind: 1e6})
    state = TRAINING.init(RUN["key"], DATA)
    batch = jax.eval_shape(lambda: tuple(jnp.asarray(part[:4]) for part in DATA))
    # the product forward and that for the weights; no gradient of the inputs is asked for
    products = 2 * (2 * 4 * 3 * 2)
    assert products < 1e6 * peaks.seconds_at_peak(TRAINING, state, batch) < 2 * products
    jnn.run(TRAINING, DATA, steps=2, hooks=(seen.append,), **RUN)
    assert seen[1].peak == pytest.approx(2 * peaks.seconds_at_peak(TRAINING, state, batch) / seen[1].seconds)


def test_a_profile_is_written_of_the_second_segment(tmp_path, raises):
    jnn.run(TRAINING, DATA, steps=4, segment=2, checkpoint=tmp_path, profile=2, **RUN)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    with raises(ValueError, "run: a profile is written beside the checkpoints: give `checkpoint`, a folder"):
        jnn.run(TRAINING, DATA, steps=4, profile=2, **RUN)


def test_tensorboard_has_every_number(tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto import event_pb2

    hooks = watching.Apart((tensorboard(tmp_path),))
    hooks(report())
    hooks.close()
    (file,) = tmp_path.iterdir()
    content, at, found = file.read_bytes(), 0, {}
    while at < len(content):  # TFRecord: length (8 bytes), its checksum (4), an event, its checksum (4)
        length = int.from_bytes(content[at : at + 8], "little")
        event = event_pb2.Event.FromString(content[at + 12 : at + 12 + length])
        found |= {value.tag: (event.step, value.simple_value) for value in event.summary.value}
        at += 16 + length
    assert found == {name: (2, pytest.approx(value)) for name, value in report().scalars().items()}


def test_a_hook_that_hangs_is_given_up(capfd):
    never = threading.Event()
    hooks = watching.Apart((lambda report: never.wait(),), patience=0.1)
    hooks(report())
    with pytest.warns(RuntimeWarning, match="a hook has not returned"):
        hooks.close()
    never.set()
