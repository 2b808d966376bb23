import json
import math
from pathlib import Path

import numpy as np
import pytest

from jnn.comparison.errors import InputError
from jnn.comparison.spaces import SPACES, complement_log_uniform, fixed, log_uniform, parse, uniform


def test_log_uniform_is_even_on_a_logarithmic_scale():
    u = np.linspace(0, 1, 5)
    np.testing.assert_allclose(log_uniform(1e-4, 1.0).value(u), np.logspace(-4, 0, 5), rtol=1e-12)


def test_uniform_is_even():
    np.testing.assert_allclose(uniform(0.5, 0.9).value(np.array([0, 0.25, 1])), [0.5, 0.6, 0.9], rtol=1e-12)


@pytest.mark.parametrize(
    "text, space",
    [
        ("1e-4:1", log_uniform(1e-4, 1)),
        ("0.5:0.99:linear", uniform(0.5, 0.99)),
        ("1:2:log", log_uniform(1, 2)),
        ("0.9", fixed(0.9)),
    ],
)
def test_the_text_forms(text, space):
    assert parse(text) == space


@pytest.mark.parametrize(
    "text, words",
    [
        ("1:1e-4", "0 < low < high, got 1 and 0.0001"),
        ("-1:1", "0 < low < high, got -1 and 1"),
        ("0:1", "0 < low < high"),
        ("1:0:linear", "low < high, got 1 and 0"),
        ("0:inf:linear", "finite numbers, at most 3.4e+38 in size, got inf"),
        ("1e-300:1", "0 and numbers of at least 1.18e-38 in size, got 1e-300"),
        ("nan", "finite"),
        ("a:b", "got 'a:b'"),
        ("1:2:cubic", "got '1:2:cubic'"),
        ("", "got ''"),
    ],
)
def test_what_is_no_space_is_said_in_one_sentence(text, words):
    with pytest.raises(InputError, match=r"^[^\n]*$") as error:
        parse(text)
    assert words in str(error.value)


def test_a_complement_is_even_on_the_logarithm_of_one_minus_x():
    space = complement_log_uniform(0.9, 0.999)
    np.testing.assert_allclose(space.value(np.array([0.0, 0.5, 1.0])), [0.9, 0.99, 0.999], rtol=1e-12)
    assert parse("0.9:0.999:complement") == space


@pytest.mark.parametrize("low, high", [(0.9, 1.0), (0.99, 0.9), (-1.0, 2.0)])
def test_a_complement_needs_two_numbers_under_one(low, high):
    with pytest.raises(InputError, match="low < high < 1"):
        complement_log_uniform(low, high)


def test_every_space_of_the_table_names_its_source_and_begins_with_the_learning_rate():
    for name, spaces in SPACES.items():
        assert all(space.source != "given" for space in spaces.values()), name
        assert name == "newton" or next(iter(spaces)).endswith("learning_rate"), name  # undamped, newton is often singular


def test_learning_rates_are_three_decades_around_the_recorded_best():
    file = Path(__file__).parents[2] / "experiments" / "results" / "learning_rates.json"
    recorded = json.loads(file.read_text())["results"]["optimizers"]
    assert len(recorded) > 40
    for name, found in recorded.items():
        if name == "optax:lbfgs":  # jnn's bears the same name
            continue
        space = next(iter(SPACES[name.rpartition(":")[2]].values()))
        assert (space.low, space.high) == pytest.approx(tuple(found["space"])), name
        assert space.high == pytest.approx(1000 * space.low), name
        middle = np.mean(np.log10(list(found["best"].values())))
        assert abs(math.log10(space.low) + 1.5 - middle) < 0.21, name  # 1, 2, 5 lie at most 0.4 decades apart
