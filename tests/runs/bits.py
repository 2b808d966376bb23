"""`jnn.run` computes what `jnn.fit` computes, to the last bit. Run by test_same_as_fit in a process of its own, since XLA's
older emitters of fusions, with which the suite compiles, round a step by what stands around it."""

import jax
import pytest
from test_run import ADAM, BATCH, DATA, EVAL, KEY, OBJECTIVE, OPTIMIZERS, STEPS, assert_equal_runs, going

import jnn


def fitted(training=ADAM, **options):
    whole = jnn.fit(training, DATA, **{"key": KEY, "steps": STEPS, "batch_size": BATCH, **options})
    return whole._replace(history=jax.device_get(whole.history))


@pytest.fixture(scope="module")
def evaluated():
    return fitted(eval_data=EVAL, eval_every=5)


@pytest.mark.parametrize("options", [{"segment": 1}, {"segment": 7}, {"segment": 7, "diverged": "skip"}])
def test_the_length_of_a_segment_changes_nothing(evaluated, options):
    assert_equal_runs(going(eval_data=EVAL, eval_every=5, **options), evaluated)


@pytest.mark.parametrize(
    "name", [name if name == "muon" else pytest.param(name, marks=pytest.mark.slow) for name in OPTIMIZERS]
)
def test_every_optimizer(name, tmp_path):
    training = jnn.training(OBJECTIVE, OPTIMIZERS[name])
    whole = fitted(training, steps=9)
    going(training, steps=4, segment=3, checkpoint=tmp_path)
    assert_equal_runs(going(training, steps=9, segment=3, checkpoint=tmp_path), whole)


def test_the_full_batch_and_a_start():
    whole = fitted(batch_size=None, steps=5)
    assert_equal_runs(going(steps=5, batch_size=None), whole)
    more = fitted(steps=6, start=whole.train_state)
    assert_equal_runs(going(steps=11, segment=4, start=whole.train_state), more)
    jax.block_until_ready(whole.train_state.params)  # still there: `run` gives its own copies up
