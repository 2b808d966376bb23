"""A run is bit by bit the same however it is stopped and taken up again; test_same_as_fit compares it with `jnn.fit`."""

import json
import os
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jnn
from jnn import checkpoints
from jnn.checkpoints import CheckpointError, Checkpoints, Manifest
from jnn.runs import run
from jnn.runs.record import require_same

rng = np.random.default_rng(0)
DATA = rng.normal(size=(64, 6)).astype(np.float32), rng.integers(0, 3, 64).astype(np.int32)
EVAL = DATA[0][:20], DATA[1][:20]
MODEL = jnn.serial(jnn.dense(8), jnn.activations.relu, jnn.batch_norm(), jnn.dropout(0.2), jnn.dense(3))
OBJECTIVE = jnn.supervised(MODEL, jnn.losses.softmax_cross_entropy, metrics={"accuracy": jnn.metrics.accuracy})
OPTIMIZERS = {
    "sgd": jnn.optim.sgd(0.1),
    "momentum": jnn.optim.momentum(0.1),
    "nesterov": jnn.optim.nesterov(0.1),
    "adagrad": jnn.optim.adagrad(0.1),
    "rmsprop": jnn.optim.rmsprop(0.01),
    "adam": jnn.optim.adam(jnn.schedules.cosine(0.01, 23)),
    "adamw": jnn.optim.adamw(0.01),
    "lion": jnn.optim.lion(0.001),
    "muon": jnn.optim.muon(0.01),
    "delta_bar_delta": jnn.optim.delta_bar_delta(0.01),
    "clipped": jnn.optim.chain(jnn.optim.clip_by_global_norm(0.1), jnn.optim.ema_params(0.9), jnn.optim.adam(0.01)),
    "optax.noisy_sgd": optax.noisy_sgd(0.01, key=jax.random.key(0)),
    "optax.lamb": optax.lamb(0.01),
}
KEY, STEPS, BATCH = jax.random.key(3), 23, 8
ADAM = jnn.training(OBJECTIVE, OPTIMIZERS["adam"])


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        one, other = (jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in (one, other))
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def going(training=ADAM, data=DATA, **options):
    return run(training, data, **{"key": KEY, "steps": STEPS, "batch_size": BATCH, "progress": False, **options})


@pytest.fixture(scope="module")
def undisturbed():
    return going(eval_data=EVAL, eval_every=5)


def assert_equal_runs(found, other):
    assert_same(found.train_state, other.train_state)
    assert_same(found.history, other.history)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_that_is_stopped_anywhere_and_goes_on_ends_the_same(name, tmp_path):
    training = jnn.training(OBJECTIVE, OPTIMIZERS[name])
    whole = going(training, steps=6, segment=3)
    for stop in range(1, 6):
        going(training, steps=stop, segment=3, checkpoint=tmp_path / str(stop))
        assert_equal_runs(going(training, steps=6, segment=3, checkpoint=tmp_path / str(stop)), whole)


def test_a_key_may_be_of_the_kind_that_is_usual_on_tpus(tmp_path):
    training = jnn.training(jnn.supervised(jnn.dense(3), jnn.losses.softmax_cross_entropy), jnn.optim.sgd(0.1))
    key = jax.random.key(3, impl="rbg")
    whole = going(training, key=key, steps=10, segment=10)
    going(training, key=key, steps=4, segment=10, checkpoint=tmp_path)
    assert_equal_runs(going(training, key=key, steps=10, segment=10, checkpoint=tmp_path), whole)


def test_what_had_ended_is_given_back(undisturbed, tmp_path):
    options = {"checkpoint": Checkpoints(tmp_path, every=4, best="eval/loss"), "eval_data": EVAL, "eval_every": 5}
    first, again = going(**options), going(**options)
    assert_equal_runs(first, undisturbed)
    assert_equal_runs(again, undisturbed)
    assert_same(first.best, again.best)


def test_the_best_is_that_of_the_least_evaluation(undisturbed, tmp_path):
    best = going(checkpoint=Checkpoints(tmp_path, keep=1, best="eval/loss"), eval_data=EVAL, eval_every=5).best
    at = 5 * (int(np.argmin(undisturbed.history["eval"]["loss"])) + 1)
    assert_same(best, going(steps=at).train_state)


def test_patience_stops_and_gives_the_best_with_and_without_checkpoints(tmp_path):
    training = jnn.training(OBJECTIVE, jnn.optim.sgd(1.0))
    options = {"steps": 400, "eval_data": EVAL, "eval_every": 2, "patience": 3, "segment": 10}
    plain, kept = going(training, **options), going(training, checkpoint=tmp_path, **options)
    losses = plain.history["eval"]["loss"]
    assert len(losses) < 200
    assert len(losses) - 1 - int(np.argmin(losses)) == 3
    assert int(plain.best.step) == 2 * (int(np.argmin(losses)) + 1)
    assert_same(plain.best, kept.best)
    assert_same(going(training, checkpoint=tmp_path, **options).train_state, plain.train_state)


@pytest.mark.parametrize(
    ("changed", "name", "was", "now"),
    [
        ({"batch_size": 4}, "batch_size", 8, 4),
        ({"key": jax.random.key(4)}, "key", [0, 3], [0, 4]),
    ],
)
def test_checkpoints_of_another_run_are_refused(tmp_path, raises, changed, name, was, now):
    going(steps=2, checkpoint=tmp_path)
    with raises(
        CheckpointError,
        f"run: the checkpoints in {tmp_path} are of another run: its {name} was {was}, here it is {now}; "
        "give another folder, or the same arguments to go on",
    ):
        going(steps=4, checkpoint=tmp_path, **changed)


@pytest.mark.parametrize(
    ("about", "problem"),
    [
        (
            {"run": {"batch_size": None, "stream": "Stream"}, "position": 0},
            "of another run: its stream was Stream, here it is None",
        ),
        ({"run": {"batch_size": None}}, "not those of a run; give another folder"),
        ({}, "not those of a run; give another folder"),
    ],
)
def test_checkpoints_of_a_stream_or_of_no_run_are_refused(about, problem):
    with pytest.raises(CheckpointError, match=f"^run: the checkpoints in here are {problem}"):
        require_same(Manifest({}, about, {}, {}), {"batch_size": None}, "here")


def test_checkpoints_of_another_model_are_refused_by_paths(tmp_path):
    going(steps=2, checkpoint=tmp_path)
    other = jnn.supervised(jnn.serial(jnn.dense(5), jnn.dense(3)), jnn.losses.softmax_cross_entropy)
    with pytest.raises(CheckpointError, match=r"changed: train_state/params/dense_0/w: float32 .6, 5. here, float32 .6, 8. in"):
        going(jnn.training(other, OPTIMIZERS["adam"]), steps=4, checkpoint=tmp_path)


def test_a_log_has_a_line_a_segment_and_none_from_beyond_a_checkpoint(tmp_path):
    options = {"checkpoint": Checkpoints(tmp_path, every=100), "segment": 4}
    going(steps=8, **options)
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"step": 12, "loss": 0}\n{"step": 1')
    going(steps=16, **options)
    assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [4, 8, 12, 16]


def test_hooks_see_each_segment_and_one_that_fails_costs_nothing(capfd):
    seen = []

    def failing(report):
        raise ConnectionError("no network")

    found = going(segment=10, hooks=(failing, lambda report: seen.append((report.step, float(report.metrics["loss"][-1])))))
    assert seen == [(step, float(found.history["loss"][step - 1])) for step in (10, 20, 23)]
    assert_same(found.train_state, going(segment=10).train_state)
    assert (
        capfd.readouterr().err.count("failing failed at step 10, and goes on being called: ConnectionError('no network')") == 1
    )


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_ends_the_segment_saves_and_stops(tmp_path, number, error):
    def ask(report):
        if report.step == 2:  # once: a second Ctrl-C quits without a checkpoint
            os.kill(os.getpid(), number)

    with pytest.raises(error) as stopped:  # steps enough for a hook that is late
        going(steps=5000, segment=2, checkpoint=Checkpoints(tmp_path, every=10_000), hooks=(ask,))
    assert number != signal.SIGTERM or stopped.value.code == 0
    (step,) = checkpoints.steps(tmp_path)
    assert 0 < step < 5000
    more = {"segment": 2, "steps": step + 3}
    assert_same(going(checkpoint=tmp_path, **more).train_state, going(**more).train_state)


def test_outside_the_main_thread_signals_are_left_alone(undisturbed):
    found = []
    thread = threading.Thread(target=lambda: found.append(going()))
    thread.start()
    thread.join()
    assert_same(found[0].train_state, undisturbed.train_state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"diverged": "ignore"}, "run: diverged is 'stop' or 'skip', got 'ignore'"),
        ({"batch_size": 65}, "run: batch_size must lie between 1 and the 64 examples, got 65"),
        ({"patience": 2}, "run: eval_every and patience want eval_data"),
        ({"segment": 0}, "run: segment must be at least 1, got 0"),
        ({"eval_data": EVAL, "eval_every": 24}, "run: eval_every must lie between 1 and the 23 steps, got 24"),
        (
            {"checkpoint": Checkpoints("x", best="eval/loss")},
            "run: checkpoints that keep the best by 'eval/loss' want eval_data",
        ),
        ({"checkpoint": "gs://there/x"}, "Checkpoints: folder is one of a file system that is mounted, got 'gs://there/x'"),
        ({"checkpoint": ""}, "Checkpoints: folder is one of a file system that is mounted, got ''"),
        ({"checkpoint": Checkpoints("x", every=-3)}, "Checkpoints: every must be at least 1, got -3"),
        ({"checkpoint": Checkpoints("x", keep=0)}, "Checkpoints: keep must be at least 1, got 0"),
        ({"checkpoint": Checkpoints("x", timeout=0)}, "Checkpoints: timeout must be positive, got 0"),
        ({"eval_data": EVAL, "patience": 0}, "run: patience must be at least 1, got 0"),
        (
            {"checkpoint": Checkpoints("x", best="eval/los"), "eval_data": EVAL},
            "run: there is no metric 'eval/los'; evaluations have eval/accuracy, eval/loss",
        ),
        ({"steps": -1}, "run: steps must be at least 0, got -1"),
    ],
)
def test_mistakes_are_said(raises, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with raises(ValueError, message):
        going(**options)


def test_progress_is_plain_lines_where_the_output_is_no_terminal(capfd):
    going(progress=True)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("step 23 of 23  accuracy 0.")
    assert line.endswith("0:00 left")


def test_evaluations_are_counted_from_the_start(tmp_path):
    whole = jnn.fit(ADAM, DATA, key=KEY, steps=6, batch_size=BATCH)
    options = {"start": whole.train_state, "eval_data": EVAL, "eval_every": 5}
    fitted = jnn.fit(ADAM, DATA, key=KEY, steps=17, batch_size=BATCH, **options)
    for kept in (None, Checkpoints(tmp_path, keep=1, best="eval/loss")):
        going(steps=12, segment=4, checkpoint=kept, **options)
        found = going(segment=4, checkpoint=kept, patience=9, **options)
        np.testing.assert_allclose(found.history["eval"]["loss"], fitted.history["eval"]["loss"], rtol=1e-5)
        best = 6 + 5 * (1 + int(np.argmin(found.history["eval"]["loss"])))
        assert found.best is not None
        assert int(found.best.step) == best
        assert_same(found.best.params, going(steps=best, start=whole.train_state).train_state.params)


def test_a_run_of_no_steps_has_no_best(tmp_path):
    kept = Checkpoints(tmp_path, best="eval/loss")
    assert going(steps=0, eval_data=EVAL, checkpoint=kept).best is None


def blinded(at):
    """A training whose evaluations are NaN up to a step."""

    def step(train_state, batch, *, train=True):
        after, metrics = ADAM.step(train_state, batch, train=train)
        return after, metrics if train else {**metrics, "loss": jnp.where(train_state.step <= at, jnp.nan, metrics["loss"])}

    return jnn.Training(ADAM.init, step)


def test_an_evaluation_that_is_nan_is_never_the_best(tmp_path):
    kept = Checkpoints(tmp_path, best="eval/loss", keep=1)
    some = going(blinded(4), steps=8, eval_data=EVAL, eval_every=2, checkpoint=kept).best
    assert some is not None
    assert int(some.step) > 4
    assert going(blinded(9), steps=8, eval_data=EVAL, eval_every=2, checkpoint=tmp_path / "all").best is None


@pytest.mark.parametrize("name", ["manifest.json", "arrays/_METADATA"])
def test_a_damaged_best_checkpoint_is_passed_over(tmp_path, name):
    training = jnn.training(OBJECTIVE, jnn.optim.sgd(0.1))
    kept = Checkpoints(tmp_path, every=2, keep=9, best="eval/loss", largest=True)
    options = {"eval_data": EVAL, "eval_every": 2, "segment": 2, "checkpoint": kept}
    whole = going(training, steps=6, **options)
    assert whole.best is not None
    path = checkpoints.at(tmp_path, int(whole.best.step)) / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(RuntimeWarning, match=f"{path} is damaged"):
        found = going(training, steps=6, **options).best
    losses = whole.history["eval"]["loss"]
    assert found is not None
    assert int(found.step) == 2 * (1 + int(np.argsort(losses)[-2]))


def test_a_folder_follows_nobody_and_nobody_elses_is_removed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = ["runs/0/precious.txt", "runs/2024/manifest.json", "runs/000000003/notes.txt"]
    for name in mine:
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    (tmp_path / "runs/000000002/arrays.orbax-checkpoint-tmp").mkdir(parents=True)  # left by a process that was killed
    (tmp_path / "elsewhere").mkdir()

    def leave(report):
        os.chdir(tmp_path / "elsewhere")

    going(steps=4, segment=1, checkpoint="runs", hooks=(leave,))
    assert checkpoints.steps(tmp_path / "runs") == [4]
    assert all((tmp_path / name).exists() for name in mine)
    assert not (tmp_path / "runs/000000002").exists()
    assert not any((tmp_path / "elsewhere").iterdir())


def test_another_version_is_said(tmp_path, monkeypatch):
    going(steps=2, checkpoint=tmp_path)
    monkeypatch.setattr(jax, "__version__", "0.0.1")
    with pytest.warns(RuntimeWarning, match=f"are of jnn {jnn.__version__}, jax .*, and jnn .*, jax 0.0.1 may round otherwise"):
        going(steps=3, checkpoint=tmp_path)


def test_fewer_steps_than_were_taken_are_refused(tmp_path, raises):
    going(steps=4, checkpoint=tmp_path)
    with raises(ValueError, "run: 3 steps, where the state to go on from has taken 4"):
        going(steps=3, checkpoint=tmp_path)


def test_it_is_not_traced(raises):
    with raises(TypeError, "run: it writes files and cannot be traced; inside jit, vmap and grad take `jnn.fit`"):
        jax.jit(lambda key: going(key=key).train_state.params)(KEY)


def ordered(steps):
    """The state after so many batches in the order in which they lie."""
    order = np.arange(8 * steps).reshape(steps, 8) % 64
    return jnn.fit(ADAM, DATA, key=KEY, steps=steps, order=order).train_state


def batches(count, data=DATA):
    return (jax.tree.map(lambda a, i=i: a[8 * (i % 8) : 8 * (i % 8) + 8], data) for i in range(count))


def test_a_generator_is_a_stream_that_cannot_be_checkpointed(raises, tmp_path):
    stream = {"batch_size": None, "steps": 6, "segment": 4}
    found, asked = going(data=batches(6), **stream).train_state, ordered(6)
    for one, other in zip(jax.tree.leaves(found.params), jax.tree.leaves(asked.params), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    with raises(ValueError, "run: this stream cannot be checkpointed: its iterator has no get_state and set_state"):
        going(data=batches(6), checkpoint=tmp_path, **stream)
    with raises(ValueError, "run: the stream ended after 5 steps"):
        going(data=batches(5), **stream)
    with raises(ValueError, "run: the stream has no batch"):
        going(data=batches(0), **stream)
