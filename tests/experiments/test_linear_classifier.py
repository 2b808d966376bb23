import math

import numpy as np
import pytest

from experiments import linear_classifier

pytestmark = pytest.mark.slow


def test_both_losses_learn_and_start_where_they_must(quick):
    results = quick("linear_classifier", ["templates"])
    for loss, at_zero in (("softmax", math.log(10)), ("hinge", 9)):
        np.testing.assert_allclose(results[loss]["loss_at_zero"], at_zero, rtol=1e-5)
        assert min(results[loss]["test_accuracy"]) > 78
        assert np.shape(results[loss]["validation_accuracy"]) == (2, 2)
    assert min(results["attributes"]["test_accuracy"]) > results["attributes"]["always_no"] + 15


def test_attributes_are_those_of_the_classes():
    coat, bag = (linear_classifier.CLASSES.index(name) for name in ("coat", "bag"))
    np.testing.assert_array_equal(linear_classifier.attributes(np.array([coat, bag])), [[0, 1, 1, 0, 1], [0, 0, 0, 0, 0]])
