"""What one sees of a run."""

import errno
import sys
import threading
import time

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
    one = Report(2, 10, metrics, {"loss": 0.5}, 4.0, {"steps": 0.5, "examples": 1200.0}, 0.25, 0.4, np.zeros(2, bool))
    return one._replace(**changed)


def test_skipped_steps_are_counted_and_leave_the_means_alone():
    some = report(metrics={"loss": np.array([np.nan, 1.0])}, skipped=np.array([True, False]))
    assert some.scalars().items() >= {"loss": 1.0, "skipped": 1.0}.items()
    assert "skipped 1" in watching.said(some)
    assert np.isnan(report(metrics={"loss": np.full(2, np.nan)}, skipped=np.ones(2, bool)).scalars()["loss"])


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


def test_a_profile_of_a_run_that_is_too_short_is_said(tmp_path):
    with pytest.warns(RuntimeWarning, match="nothing was profiled: that begins with the second segment, and the run had 1$"):
        jnn.run(TRAINING, DATA, steps=4, checkpoint=tmp_path, profile=2, **RUN)


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


def test_a_hook_that_hangs_is_said_and_given_up_and_costs_the_others_nothing(capfd):
    never, seen = threading.Event(), []

    def hanging(report):
        never.wait()

    hooks = watching.Apart((hanging, seen.append), patience=0.1)
    for step in range(3):
        hooks(report(step=step))
        time.sleep(0.2)
    said = capfd.readouterr().err
    assert said.count("hanging is more than 0.1 seconds behind; the run does not wait for it") == 1
    with pytest.warns(RuntimeWarning, match="run: the hook .*hanging has not returned; its last reports are lost"):
        hooks.close()
    assert [one.step for one in seen] == [0, 1, 2]
    never.set()


def test_a_hook_that_is_slow_is_closed_and_what_it_has_not_seen_is_counted():
    class Slow:
        def __init__(self):
            self.seen, self.closed = [], False

        def __call__(self, report):
            time.sleep(0.25)
            self.seen.append(report)

        def close(self):
            self.closed = True

    slow = Slow()
    hooks = watching.Apart((slow,), patience=1.0)
    for _ in range(12):
        hooks(report())
    with pytest.warns(RuntimeWarning) as warned:
        hooks.close()
    assert str(warned[0].message).endswith(f"Slow is slow; its last {12 - len(slow.seen)} reports are lost")
    assert 0 < len(slow.seen) < 12
    assert slow.closed


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), BrokenPipeError("no pipe")])
def test_no_error_of_a_hook_ends_it_or_another(capfd, error):
    seen = []

    def failing(report):
        seen.append("failing")
        raise error

    hooks = watching.Apart((failing, lambda report: seen.append("other")))
    for _ in range(2):
        hooks(report())
    hooks.close()
    assert sorted(seen) == ["failing", "failing", "other", "other"]
    assert capfd.readouterr().err.count(f"failing failed at step 2, and goes on being called: {error!r}") == 1


class Broken:
    """Standard error, when what it was joined to is gone."""

    def __init__(self, terminal):
        self.isatty = lambda: terminal

    def write(self, text):
        raise OSError(errno.EIO, "Input/output error")

    flush = fileno = write


@pytest.mark.parametrize("stream", [None, Broken(False), Broken(True)])
def test_no_standard_error_ends_a_run_or_a_hook(monkeypatch, capfd, stream):
    seen = []

    def failing(report):
        seen.append(report.step)
        raise ValueError

    monkeypatch.setattr(sys, "stderr", stream)
    jnn.run(TRAINING, DATA, key=RUN["key"], steps=4, segment=2, batch_size=4, hooks=(failing,))
    assert seen == [2, 4]
    assert sys.stderr is stream
    assert capfd.readouterr().out == ""


def test_a_damaged_line_of_a_log_is_left_out_and_later_ones_are_kept(tmp_path):
    path = tmp_path / "log.jsonl"
    lines = [b'{"step": %d}\n' % step for step in range(1, 7)]
    lines[1] = b'{"st\xe5p": 2}\n'
    lines[3] = b"{\n"
    path.write_bytes(b"".join(lines) + b'{"step"')
    with pytest.warns(RuntimeWarning) as warned:
        watching.Lines(path, 5).close()
    assert [str(warning.message) for warning in warned] == [f"{path}: lines that cannot be read are left out: 2"]
    assert path.read_bytes() == b"".join(lines[i] for i in (0, 2, 4))
