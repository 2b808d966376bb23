import numpy as np
import pytest

import jnn
from experiments import fields, receptive_field

pytestmark = pytest.mark.slow


def test_fields_follow_the_formula_and_shifts_the_theory(quick):
    results = quick("receptive_field", ["fields", "effective", "shifts"])
    assert all(formula == measured for formula, measured in results["fields"])
    assert len({formula for formula, _ in results["fields"]}) > 5
    for depth, (spread, *_), predicted in zip(
        receptive_field.DEPTHS, results["spread"]["3"]["linear"], results["spread_predicted"]["3"], strict=True
    ):
        np.testing.assert_allclose(spread, predicted, rtol=0.15, err_msg=f"{depth} layers")
    equivariance, invariance = (
        {case: np.array(values) for case, values in results["curves"][kind].items()} for kind in ("equivariance", "invariance")
    )
    for case in ("circular padding", "zeros, interior"):
        assert equivariance[case].max() < 1e-5
    assert equivariance["zeros"][:, 8].min() > 1e-3
    strided = equivariance["circular, stride 2"]
    assert strided[:, ::2].max() < 1e-5 < 1e-2 < strided[:, 1::2].min()
    assert invariance["global max"].max() < 1e-5
    by_window = [invariance[case][:, 1].mean() for case in ("no pooling", "max 2 x 2", "max 4 x 4", "max 8 x 8")]
    assert by_window == sorted(by_window, reverse=True)


@pytest.mark.parametrize(
    ("stack", "field"),
    [
        ([("conv", 3, 1, 1)] * 5, 1 + 5 * 2),
        ([("conv", 2, 1, 2**i) for i in range(4)], 16),  # dilations as in WaveNet, van den Oord et al. 2016
        ([("conv", 3, 1, 1), ("max_pool", 2, 2, 1)] * 2, 10),
        ([("conv", 7, 2, 1), ("max_pool", 3, 2, 1), ("conv", 3, 1, 1)], 19),
    ],
    ids=["plain", "dilated", "pooled", "strided"],
)
def test_known_fields(stack, field):
    assert fields.formula(stack) == field
    assert fields.measured(stack) == field


def test_one_random_input_does_not_show_the_field_of_a_maximum():
    stack = [("max_pool", 4, 4, 1), ("max_pool", 4, 4, 1)]
    assert fields.measured(stack, draws=1) == 1 < fields.measured(stack, draws=500) == 16


def test_influence_is_what_few_weights_say():
    """One linear layer: the squared gradient is the squared weights, all places alike on average."""
    influence = fields.influence(1, 5, jnn.activations.identity, seeds=200, seed=0)
    assert influence.shape == (200, 5)
    np.testing.assert_allclose(influence.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(influence.mean(axis=0), 0.2, atol=0.02)
    # about the centre of the field, not about the place where the one seed's gradient lies
    moments = fields.second_moment(np.array([[0.5, 0, 0.5], [0, 1.0, 0], [1.0, 0, 0]]))
    np.testing.assert_allclose(moments, [1, 0, 1])
    np.testing.assert_allclose(fields.spread(moments)[0], np.sqrt(2 / 3))


def test_the_spread_of_few_weights_is_that_of_the_random_walk():
    for depth, window in ((1, 3), (2, 3), (4, 5)):
        moments = fields.second_moment(fields.influence(depth, window, jnn.activations.identity, seeds=1000, seed=0))
        np.testing.assert_allclose(fields.spread(moments)[0], fields.predicted_spread(depth, window), rtol=0.03)
