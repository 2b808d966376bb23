"""Small versions of the experiments whose results are recorded: they run, and find what they should."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import jnn
from experiments import calibration, commands, learning_rates, optax_league, power
from jnn.comparison.entrants import enter

SMALL = ["--tasks", "digits-linear", "--trials", "1"]


def recorded(out):
    return json.loads((out / "results.json").read_text())


def test_calibration_counts_false_verdicts(tmp_path, capsys):
    (row,) = calibration.main([*SMALL, "--comparisons", "3", "--studies", "2", "--out", str(tmp_path)])
    assert row["comparisons"] == 3
    assert f"digits-linear: {row['false_verdicts']} of 3 verdicts false" in capsys.readouterr().out
    assert recorded(tmp_path)["results"]["rows"] == [row]
    assert "jnn_source_sha256" in recorded(tmp_path)["environment"]


def test_a_planted_fault_that_is_large_is_found_every_time(tmp_path):
    arguments = [*SMALL, "--comparisons", "3", "--studies", "4", "--faults", "shifted space,scaled rate"]
    shifted, scaled = power.main([*arguments, "--out", str(tmp_path)])
    assert shifted["effect_percent"] > 5
    assert scaled["effect_percent"] > 0
    assert shifted["found_low"] <= shifted["found"] <= shifted["found_high"]
    assert 0 <= shifted["promised_power"] <= 1


def first_step(fault, value):
    factory, _ = power.FAULTS[fault]
    init, update = factory(0.1, **({"steps": 10} if fault == "scaled rate" else {}))
    params = {"w": jnp.linspace(0, 1, 1000)}
    return update({"w": jnp.full(1000, value)}, init(params), params)[0]["w"]


@pytest.mark.parametrize("fault", ["shifted space", "no bias correction", "scaled rate"])
def test_a_fault_is_adam_but_for_itself(fault):
    # Adam's first step is lr * sign(g); without the correction it is (1 - b1) / sqrt(1 - b2) times that
    factor = 0.1 / np.sqrt(0.001) if fault == "no bias correction" else 1.0
    np.testing.assert_allclose(first_step(fault, 0.5), -0.1 * factor, rtol=1e-4)


def test_a_fault_is_searched_where_adam_is_but_for_the_shifted_one():
    adam = enter("adam", jnn.optim.adam, {}).space["learning_rate"]
    for name, (factory, space) in power.FAULTS.items():
        rate = enter(name, factory, space).space["learning_rate"]
        factor = 10 if name == "shifted space" else 1
        assert (factor * rate.low, factor * rate.high) == pytest.approx((adam.low, adam.high))


def test_noise_of_half_the_gradient_flips_a_fortieth_of_its_signs():
    steps = first_step("gradient noise", 0.5)
    np.testing.assert_allclose(abs(steps), 0.1, rtol=1e-4)
    assert 0.01 < (steps > 0).mean() < 0.04  # normal beyond two deviations on one side: 2.3 %


def test_the_league_ranks_and_resumes(tmp_path, capsys, monkeypatch):
    optimizers, left_out = optax_league.contestants()
    monkeypatch.setattr(optax_league, "contestants", lambda: (dict(list(optimizers.items())[:4]), left_out))
    rows = optax_league.main(["--quick", "--out", str(tmp_path)])
    assert [row["mean_difference"] for row in rows] == sorted(row["mean_difference"] for row in rows)
    assert len(rows) == 3
    table = (tmp_path / "league.md").read_text()
    assert all(f"`{row['optimizer']}`" in table for row in rows)
    assert (tmp_path / "league.png").stat().st_size > 10_000
    assert table.startswith("Of 3 optimizers the most successful were better than Adam on ")
    content = recorded(tmp_path)["results"]
    assert "optax.contrib:sophia" in content["left_out"]
    kept = (tmp_path / "digits-linear" / "results.json").read_text()
    again = optax_league.main(["--quick", "--out", str(tmp_path)])
    assert "are kept in" in capsys.readouterr().err
    assert again == rows
    assert json.loads(kept)["verdicts"] == json.loads((tmp_path / "digits-linear" / "results.json").read_text())["verdicts"]


def test_the_page_of_the_league_has_the_recorded_table():
    root = Path(__file__).parent.parent
    rows = json.loads((root / "experiments" / "results" / "league.json").read_text())["results"]["rows"]
    page, tasks = (root / "docs" / "league.md").read_text(), list(rows[0]["tasks"])
    assert optax_league.summary(rows, tasks) in page
    assert optax_league.table(rows, tasks) in page
    assert len(rows) > 40


def test_the_best_learning_rate_is_found_where_it_lies(tmp_path):
    found = learning_rates.main(["--optimizers", "sgd", "--tasks", "digits-linear", "--out", str(tmp_path)])
    assert 0.1 < found["sgd"]["best"]["digits-linear"] < 100
    assert learning_rates.space([4e-3, 1e-1]) == pytest.approx((5e-4, 0.5))  # 2e-2 / 10 ** 1.5 is 6.3e-4
    assert learning_rates.space([0.05]) == pytest.approx((2e-3, 2))  # 0.05 / 10 ** 1.5 is 1.6e-3


def test_the_pilot_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    arguments = ["--optimizers", "sgd", "--out", str(tmp_path)]
    first = learning_rates.main([*arguments, "--tasks", "digits-linear"])
    asked = []
    monkeypatch.setattr(learning_rates, "best_rates", lambda name, tasks, *_: asked.append(tasks) or dict.fromkeys(tasks, 0.5))
    found = learning_rates.main([*arguments, "--tasks", "digits-linear,digits-mlp"])
    assert asked == [["digits-mlp"]]
    assert found["sgd"]["best"] == first["sgd"]["best"] | {"digits-mlp": 0.5}
    learning_rates.main([*arguments, "--tasks", "digits-linear", "--seed", "1"])  # of another seed nothing is kept
    assert asked[1:] == [["digits-linear"]]


@pytest.mark.parametrize(
    "module, arguments, words",
    [
        (calibration, ["--tasks", "nonsense"], "there is no task 'nonsense'"),
        (power, ["--faults", "nonsense"], "there is no fault 'nonsense'; there are shifted space"),
        (learning_rates, ["--optimizers", "nonsense"], "there is no optimizer 'nonsense'"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(tmp_path, capsys, module, arguments, words):
    assert commands.exit_code(lambda: module.main([*arguments, "--out", str(tmp_path)])) == 2
    assert words in capsys.readouterr().err.splitlines()[-1]
