"""Losses and parameters that are not finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_kills import Rows
from test_run import ADAM, BATCH, DATA, KEY, OBJECTIVE, STEPS, assert_same, batches, going

import jnn
from jnn import checkpoints
from jnn.checkpoints import Checkpoints
from jnn.runs import DivergedError

BAD = DATA[0].copy(), DATA[1]
BAD[0][5, 2] = np.nan


def first_step_of(example):
    order = jnn.data.batch_order(jax.random.split(KEY)[1], jnp.int32(0), 8, 64, BATCH)
    return int(np.flatnonzero((np.asarray(order) == example).any(axis=1))[0])


class BadRows(Rows):
    def __getitem__(self, i):
        return BAD[0][i], BAD[1][i]


@pytest.mark.parametrize("segment", [1, 100])
@pytest.mark.parametrize("kept", [False, True])
def test_a_stream_with_a_bad_example_stops_a_run(tmp_path, segment, kept):
    stream = jnn.data.stream(BadRows(), batch_size=BATCH, seed=1)
    at = next(i for i, (x, _) in enumerate(stream) if np.isnan(x).any())
    with pytest.raises(DivergedError) as error:
        checkpoint = Checkpoints(tmp_path, every=2) if kept else None
        going(data=stream, batch_size=None, segment=segment, checkpoint=checkpoint)
    assert (error.value.step, error.value.path) == (at, "batch/0")


def spoiled(at):
    """A training whose step of this number gives parameters that are not finite, and a loss that is."""

    def step(train_state, batch, *, train=True):
        after, metrics = ADAM.step(train_state, batch, train=train)
        params = jax.tree.map(lambda a: jnp.where(train_state.step == at, jnp.inf, a), after.params)
        return after._replace(params=params), {**metrics, "loss": jnp.nan_to_num(metrics["loss"])}

    return jnn.Training(ADAM.init, step)


def test_what_was_infinite_from_the_start_is_not_blamed():
    training = spoiled(5)

    def init(key, batch):
        return ADAM.init(key, batch)._replace(opt_state=(ADAM.init(key, batch).opt_state, jnp.inf))

    def step(train_state, batch, *, train=True):
        own, best = train_state.opt_state
        after, metrics = training.step(train_state._replace(opt_state=own), batch, train=train)
        return after._replace(opt_state=(after.opt_state, best)), metrics

    with pytest.raises(DivergedError) as error:
        going(jnn.Training(init, step), steps=9, segment=9)
    assert error.value.step == 5


@pytest.mark.parametrize("segment", [1, 4])
def test_parameters_that_are_not_finite_are_never_kept(tmp_path, segment):
    with pytest.raises(DivergedError, match=r"step 5 is .*: the first array that is not finite is after the step/") as error:
        going(spoiled(5), steps=6, segment=segment, checkpoint=Checkpoints(tmp_path, every=2, keep=1))
    assert error.value.step == 5
    assert checkpoints.steps(tmp_path) == [4]
    assert int(checkpoints.load(error.value.folder).tree["train_state"]["step"]) == 5
    assert going(spoiled(5), steps=6, diverged="skip", checkpoint=tmp_path).skipped.tolist() == [5]


def test_the_state_of_a_killed_search_is_saved_anew(tmp_path):
    at = first_step_of(5)
    (tmp_path / "diverged" / f"{at:09d}" / "arrays").mkdir(parents=True)
    with pytest.raises(DivergedError) as error:
        going(data=BAD, checkpoint=tmp_path)
    assert int(checkpoints.load(error.value.folder).tree["train_state"]["step"]) == at


def test_a_step_is_skipped_alone_where_gradients_are_accumulated():
    training = jnn.training(OBJECTIVE, jnn.optim.accumulate(jnn.optim.sgd(0.1), 2))

    def step(train_state, batch, *, train=True):
        after, metrics = training.step(train_state, batch, train=train)
        bad = train_state.step == 4  # a gradient that is not finite, of a finite loss
        opt_state = jax.tree.map(lambda a: jnp.where(bad, jnp.nan, a) if a.dtype == jnp.float32 else a, after.opt_state)
        return after._replace(opt_state=opt_state), {**metrics, "good": metrics["loss"]}

    found = going(jnn.Training(training.init, step), diverged="skip")
    assert found.skipped.tolist() == [4]
    np.testing.assert_array_equal(found.history["good"], found.history["loss"])


@pytest.mark.parametrize("segment", [1, 3, 100])
@pytest.mark.parametrize("kept", [False, True])
def test_a_loss_that_is_not_finite_stops_a_run_before_its_step(tmp_path, segment, kept):
    at = first_step_of(5)
    with pytest.raises(DivergedError) as error:
        going(data=BAD, segment=segment, checkpoint=Checkpoints(tmp_path, every=2) if kept else None)
    where = f"; the state before that step is in {tmp_path}/diverged/{at:09d}" if kept else ""
    assert str(error.value) == f"run: the loss of step {at} is nan: the first array that is not finite is batch/0{where}"
    assert (error.value.step, error.value.path) == (at, "batch/0")
    if kept:
        state = checkpoints.load(error.value.folder).tree["train_state"]["params"]
        assert_same(state, jax.tree.map(np.asarray, going(steps=at, segment=segment).train_state.params))


def test_skipping_leaves_out_the_bad_steps_and_no_others():
    found = going(data=BAD, diverged="skip", segment=5)
    order = np.asarray(jnn.data.batch_order(jax.random.split(KEY)[1], jnp.int32(0), STEPS, 64, BATCH))
    bad = np.flatnonzero((order == 5).any(axis=1))
    assert found.skipped.tolist() == bad.tolist()
    assert np.isnan(found.history["loss"][bad]).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found.train_state.params))


def test_a_segment_of_skipped_steps_is_said():
    with pytest.warns(RuntimeWarning, match="run: all steps from 0 to 3 were skipped"):
        going(steps=4, limit=0.0, diverged="skip")


def test_a_limit_counts_as_diverged(raises):
    with pytest.raises(DivergedError, match=r"run: the loss of step 0 is .*: above the limit of 0\.01"):
        going(limit=0.01)


def test_a_generator_cannot_be_read_again():
    message = "run: the loss of step 0 is nan; what was not finite is not known, as the stream cannot be read again"
    with pytest.raises(DivergedError, match=message):
        going(data=batches(6, BAD), batch_size=None, steps=6, segment=4)
