import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import dropouts, regularization
from experiments.regularized_network import NONE, run

pytestmark = pytest.mark.slow


def test_every_method_is_tuned_and_judged_and_the_two_dropouts_agree(quick):
    results = quick("regularization", ["gap"])
    methods, dropout = results["methods"], results["dropout"]
    assert set(methods) == {*regularization.METHODS, "early stopping"}
    none = methods["none"]
    assert none["gap"][0] > 0.1
    assert methods["l1"]["sparsity"][0] > none["sparsity"][0] + 5
    for name in ("l1", "dropout", "noise"):
        assert methods[name]["gap"][0] < none["gap"][0]
    assert results["pruned_l1"][0] > methods["l1"]["test"]["accuracy"][0] - 1
    assert max(dropout["trained"], dropout["tested"]) < 1e-4
    # of 640 logits, the root mean square of what is one standard error off
    for off in dropout["standard_errors"].values():
        assert 0.8 < off < 1.2
    assert dropout["probability"] > 0


def test_plain_dropout_keeps_its_expectation(key):
    _, apply = dropouts.plain(0.25)
    x = jnp.linspace(1.0, 2.0, 7)
    kept = jax.vmap(lambda key: apply({}, {}, x, key=key, train=True)[0])(jax.random.split(key, 20_000))
    np.testing.assert_allclose(apply({}, {}, x)[0], 0.75 * x, rtol=1e-6)
    np.testing.assert_allclose(kept.mean(axis=0), 0.75 * x, rtol=0.02)
    assert np.all((kept == 0) | (kept == x))


def test_nothing_is_learned_from_the_stop_on(key):
    random = np.random.default_rng(0)
    examples = random.integers(0, 255, (60, 28, 28, 1), np.uint8), random.integers(0, 10, 60, np.int32)
    strengths = {name: jnp.float32(value) for name, value in NONE.items()}
    losses = run(strengths, key, examples, 40, 20, eval_data=examples, eval_every=10).history["eval"]["loss"]
    assert losses[0] != losses[1] == losses[2] == losses[3]


def test_sparsity_counts_all_weights_together():
    params = {"hidden": {"w": np.array([[[0.0, 1.0, 1.0]]])}, "head": {"w": np.array([[[1e-4]]])}}
    np.testing.assert_allclose(regularization.sparsity(params), [0.5])
