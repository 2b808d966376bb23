import copy
import dataclasses

import pytest

from jnn.comparison.errors import InputError
from jnn.comparison.merging import merge, rejudge
from jnn.comparison.report import write_report

from synthetic import synthetic


def test_two_halves_are_the_whole_judged_anew():
    whole = synthetic(names=("adam", "worse", "same"))
    merged = merge(synthetic(names=("adam", "worse")), synthetic(names=("adam", "same")))
    key = ["task", "optimizer"]
    expected = whole.verdicts.sort_values(key, ignore_index=True)
    assert merged.verdicts.sort_values(key, ignore_index=True).equals(expected)
    assert set(merged.curves) == set(whole.curves)
    assert merged.environment["trainings"] == whole.environment["trainings"]
    assert merged.environment["seconds"] == pytest.approx(24.6)


def test_p_values_are_adjusted_over_all():
    half = synthetic(names=("adam", "worse"))
    merged = merge(half, synthetic(names=("adam", "same")))
    smallest, adjusted = (merged.verdicts[column].min() for column in ("p_value", "p_adjusted"))
    assert half.verdicts.p_adjusted.min() == pytest.approx(2 * smallest)
    assert adjusted == pytest.approx(4 * smallest)


def test_other_tasks_are_added_and_the_report_can_be_written(tmp_path):
    merged = merge(synthetic(("one",), ("adam", "worse")), synthetic(("one", "two"), ("adam", "same")))
    pairs = set(zip(merged.verdicts.task, merged.verdicts.optimizer, strict=True))
    assert pairs == {("one", "worse"), ("one", "same"), ("two", "same")}
    page = (write_report(merged, tmp_path / "out").folder / "report.html").read_text()
    assert "same is not shown to differ from adam on one, two." in page


def test_merging_with_itself_changes_nothing_but_the_time():
    one = synthetic()
    merged = merge(one, one)
    assert merged.verdicts.equals(one.verdicts)
    assert merged.trials.equals(one.trials)


def test_judging_the_trials_gives_the_verdicts():
    one = synthetic()
    assert rejudge(one.trials, one.protocol) == one.verdicts.to_dict("records")


@pytest.mark.parametrize(
    "part, keys, value, words",
    [
        ("protocol", ["seed"], 7, "they differ in seed (0 and 7)"),
        ("protocol", ["trials"], 7, "trials (4 and 7)"),
        ("protocol", ["studies"], 7, "studies (8 and 7)"),
        ("protocol", ["lanes"], 7, "lanes (8 and 7)"),
        ("protocol", ["margin"], 0.5, "margin (0.01 and 0.5)"),
        ("protocol", ["tasks", "one", "steps"], 7, "task one: steps (20 and 7)"),
        ("protocol", ["optimizers", "adam", "spaces", "learning_rate", "low"], 7, "optimizer adam: spaces learning_rate low"),
        ("protocol", ["budgets"], {"adam": {"trials": 7}}, "budget of adam (none and {'trials': 7})"),
        ("environment", ["versions", "jax"], "0.1", "versions jax ("),
        ("environment", ["jnn_source_sha256"], "0" * 64, "jnn_source_sha256 ("),
        ("environment", ["device", "kind"], "abacus", "device kind (cpu and abacus)"),
        ("targets", ["one"], 7.0, "target of one ("),
    ],
)
def test_what_differs_is_named(part, keys, value, words):
    a = synthetic(("one",), ("adam", "same"))
    changed = copy.deepcopy(getattr(a, part))
    inner = changed
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    with pytest.raises(InputError) as error:
        merge(a, dataclasses.replace(a, **{part: changed}))
    assert words in str(error.value)


def test_runs_that_both_have_must_agree():
    a = synthetic(("one",), ("adam", "same"))
    trials = a.trials.copy()
    trials.loc[trials.optimizer == "adam", "validation_loss"] *= 1.000001
    with pytest.raises(InputError, match="the runs of adam on one differ"):
        merge(a, dataclasses.replace(a, trials=trials))
