import os

import numpy as np
import pytest

import jnn
from jnn.comparison import plans, studies
from jnn.comparison.suite import DEFAULT_TASKS, TASKS


def tuned_adam(name, count):
    plan = plans.make_plan({"adam": jnn.optim.adam, "sgd": jnn.optim.sgd}, [name], "adam", {}, 8, count, 0.01, 0)
    return studies.run_cell(plan, studies.Setup(plan.tasks[0], plan), plan.entrants[0])


@pytest.mark.parametrize("name", DEFAULT_TASKS)
def test_tuned_adam_reaches_the_floor_of_the_digits(name):
    assert_reached(name, tuned_adam(name, 16))


@pytest.mark.slow
@pytest.mark.skipif("JNN_DATA_DIR" not in os.environ, reason="Fashion-MNIST is not bundled: set JNN_DATA_DIR to its folder")
def test_tuned_adam_reaches_the_floor_of_fashion():
    assert_reached("fashion-mlp", tuned_adam("fashion-mlp", 4))


def assert_reached(name, cell):
    score, floor = TASKS[name].floor
    mean = cell.final["test"][score].mean()
    assert mean <= floor if score == "loss" else mean >= floor, (name, score, mean)


@pytest.mark.parametrize("name", DEFAULT_TASKS)
def test_evaluations_divide_the_steps(name):
    assert TASKS[name].steps % TASKS[name].points == 0


def test_the_autoencoder_rebuilds_its_input():
    inputs, targets = TASKS["digits-autoencoder"].load().pool
    np.testing.assert_array_equal(inputs.reshape(1797, 64), targets)
