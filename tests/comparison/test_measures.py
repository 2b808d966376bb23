import dataclasses

import numpy as np
import pytest

from jnn.comparison.measures import measures, task_scores, times_to_target

from synthetic import synthetic


@pytest.fixture(scope="module")
def comparison():
    return synthetic()


@pytest.fixture(scope="module")
def table(comparison):
    return measures(comparison).set_index(["task", "optimizer"])


def test_scores_are_means_over_the_final_runs(comparison, table):
    finals = comparison.finals().query("task == 'two' and optimizer == 'worse'")
    row = table.loc["two", "worse"]
    np.testing.assert_allclose(
        [row.test_loss, row.test_loss_sd, row.test_accuracy],
        [np.mean(finals.test_loss), np.std(finals.test_loss, ddof=1), np.mean(finals.test_accuracy)],
        rtol=1e-12,
    )


def test_times_to_the_target_with_the_share_that_never_arrives(comparison, table):
    curve, target = comparison.curves["one", "adam"], comparison.targets["one"]
    by_hand = []
    for losses in curve["validation"]:
        reached = [step for step, loss in zip(curve["step"], losses, strict=True) if loss <= target]
        by_hand.append(reached[0] if reached else np.inf)
    assert times_to_target(comparison, "steps")["one", "adam"].tolist() == by_hand
    assert table.loc["one", "adam"].not_reached == pytest.approx(0.25)  # the target is the 75th percentile of these very runs
    assert table.loc["one", "adam"].steps_to_target == np.median(by_hand)
    assert table.loc["one", "worse"].steps_to_target == np.inf
    assert table.loc["one", "worse"].not_reached == 1
    assert table.loc["one", "adam"].seconds_to_target == pytest.approx(2e-4 * np.median(by_hand))


def test_costs_are_medians_over_rounds(table):
    row = table.loc["one", "same"]
    assert (row.seconds_per_step, row.step_time_ratio, row.state_bytes) == (2e-4, pytest.approx(2.0), 1234)


def test_the_share_of_trials_that_diverge(comparison, table):
    tuned = comparison.trials.query("phase == 'tune' and task == 'one' and optimizer == 'same'")
    rates = [h["learning_rate"] for h in tuned.hyperparameters]
    assert 0 < table.loc["one", "same"].diverged_trials == pytest.approx(np.mean(np.log10(rates) > -0.2))


def test_what_was_not_measured_is_nan():
    table = measures(synthetic(measured=False))
    columns = ["steps_to_target", "not_reached", "seconds_to_target", "seconds_per_step", "step_time_ratio", "state_bytes"]
    assert table[columns].isna().all(axis=None)


def test_scores_of_the_reference_average_to_one(comparison):
    scores = task_scores(comparison)
    assert scores["adam"].shape == (2, 8)
    np.testing.assert_allclose(scores["adam"].mean(axis=1), 1, rtol=1e-6)
    losses = comparison.finals().query("task == 'one'").pivot(index="study", columns="optimizer", values="test_loss")
    expected = (2 - losses["worse"]) / (2 - losses["adam"].mean())
    np.testing.assert_allclose(scores["worse"][0], expected, rtol=1e-6)


def test_a_task_on_which_the_reference_learned_nothing_has_no_scores(comparison):
    curves = dict(comparison.curves)
    curves["one", "adam"] = curves["one", "adam"] | {"initial": np.zeros(8, np.float32)}
    assert task_scores(dataclasses.replace(comparison, curves=curves))["adam"].shape == (1, 8)
