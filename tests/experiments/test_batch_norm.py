import jax
import numpy as np
import pytest

from experiments import batch_norm

pytestmark = pytest.mark.slow


def test_batch_norm_takes_more_rates_and_scales(quick):
    results = quick("batch_norm", ["heatmaps"])
    without, normed = results["without"], results["with"]
    for threshold in ("60", "75"):
        assert sum(normed["by_threshold"][threshold]["cells"]) > sum(without["by_threshold"][threshold]["cells"])
        rates = [found["by_threshold"][threshold]["highest_rate"] for found in (without, normed)]
        assert rates[1] >= rates[0]
    assert normed["best"]["test_accuracy"][0] > 70


def test_under_batch_norm_the_scale_of_the_weights_does_not_matter(key):
    pictures = jax.random.randint(key, (32, 28, 28, 1), 0, 255)

    def logits(scale, normed):
        model = batch_norm.network(scale, normed)
        params, state = model.init(key, pictures)
        return model.apply(params, state, pictures, train=True)[0]

    # a variance of 100 scale^2 beside batch norm's epsilon of 1e-5
    np.testing.assert_allclose(logits(1.0, True), logits(100.0, True), rtol=1e-3, atol=1e-3)
    # without, five layers of relu are homogeneous: the factor comes out five times
    np.testing.assert_allclose(logits(2.0, False), 32 * logits(1.0, False), rtol=1e-4, atol=1e-4)


def test_summary_of_a_heat_map():
    validation = np.array([[[80.0, 80.0], [10.0, 90.0]], [[70.0, 70.0], [10.0, 10.0]]])  # (scales, rates, seeds)
    found = batch_norm.summary(validation, validation + 1, (0.1, 1.0), (1.0, 2.0))
    assert found["by_threshold"] == {
        "60": {"cells": [2, 3], "highest_rate": [0.1, 1.0], "scales": [2, 2]},
        "75": {"cells": [1, 2], "highest_rate": [0.1, 1.0], "scales": [1, 1]},
    }
    assert (found["best"]["scale"], found["best"]["rate"], found["best"]["test_accuracy"][0]) == (1.0, 0.1, 81)
