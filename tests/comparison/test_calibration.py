import numpy as np
import pytest

import jnn
from jnn.comparison import calibration, estimates, plans
from jnn.comparison.catalogue import catalogue, names
from jnn.comparison.errors import InputError

from tiny import tiny_task


def test_an_optimizer_against_itself_is_seldom_called_different():
    found = jnn.calibrate(jnn.optim.adam, [tiny_task(), tiny_task("second", steps=12)], comparisons=12, trials=2, studies=8)
    assert list(found.task) == ["tiny", "second"]
    assert (found["false_verdicts"] <= found["p_under_0.05"]).all()  # a verdict needs a difference over the margin as well
    for row in found.to_dict("records"):
        assert row["false_verdicts"] <= 4  # of 12 at 5 %: more has a chance of 2 in 10,000
        assert row["false_verdicts_low"] <= row["false_verdicts_share"] <= row["false_verdicts_high"]
        assert row["sound"] == (row["false_verdicts_low"] <= 0.05)


def test_its_arms_have_their_own_points_and_so_differ(monkeypatch):
    seen = []
    run_cell = calibration.run_cell

    def watched(*arguments, **options):
        seen.append(run_cell(*arguments, **options))
        return seen[-1]

    monkeypatch.setattr(calibration, "run_cell", watched)
    jnn.calibrate(jnn.optim.adam, [tiny_task()], comparisons=2, trials=2, studies=2)
    one, other = seen
    assert not np.isin(one.hyperparameters["learning_rate"], other.hyperparameters["learning_rate"]).any()


def test_the_interval_is_the_exact_one():
    found = jnn.calibrate(jnn.optim.sgd, [tiny_task()], comparisons=5, trials=1, studies=2).iloc[0]
    if found.false_verdicts == 0:
        # Clopper & Pearson's upper limit of none in n: 1 - 0.025^(1 / n)
        assert found.false_verdicts_low == 0
        assert found.false_verdicts_high == pytest.approx(1 - 0.025 ** (1 / 5))
    else:
        assert 0 < found.false_verdicts_low < found.false_verdicts_share < found.false_verdicts_high


def test_an_estimate_counts_what_would_run():
    plan = plans.make_plan(
        {"adam": jnn.optim.adam, "sgd": jnn.optim.sgd}, [tiny_task()], "adam", {}, {"adam": 3, "sgd": 3}, 8, 0.01, 0
    )
    found = estimates.estimate(plan)
    # the reference has two separate studies as well
    assert {key: one.trainings for key, one in found.items()} == {("tiny", "adam"): 4 * 10, ("tiny", "sgd"): 4 * 8}
    assert all(0 < one.seconds < 60 and one.steps == 20 for one in found.values())
    assert estimates.total_seconds(found) < sum(one.seconds for one in found.values()) + 1e-9
    kept = estimates.estimate(plan, {("tiny", "adam")})
    assert kept["tiny", "adam"].seconds == 0


def test_the_catalogue_holds_optaxs_optimizers_and_says_why_some_cannot_run():
    found = {one.name: one.problem for one in catalogue()}
    assert list(found) == list(names())
    running = [name for name, problem in found.items() if not problem]
    assert len([name for name in running if name.startswith("optax")]) >= 41
    for name in ("adam", "lbfgs", "muon", "optax:adamw", "optax:lbfgs", "optax:nadam", "optax.contrib:schedule_free_adamw"):
        assert name in running
    assert "needs l2_norm_clip" in found["optax.contrib:dpsgd"]
    assert "obj_fn must be provided" in found["optax.contrib:sophia"]
    assert "takes no learning_rate" in found["optax.contrib:reduce_on_plateau"]
    assert not {"chain", "eval_params", "clip_by_value", "optax:scale_by_adam", "optax:ema"} & set(found)


def test_every_optimizer_of_jnn_can_be_compared():
    assert [one for one in catalogue() if ":" not in one.name and one.problem] == []


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"studies": 1}, "studies must be a whole number of at least 2, got 1: an interval needs at least two"),
        ({"comparisons": 0}, "comparisons must be a whole number of at least 1, got 0"),
    ],
)
def test_too_few_studies_or_comparisons_are_refused(changes, message, raises):
    with raises(InputError, message):
        jnn.calibrate(jnn.optim.sgd, [tiny_task()], **{"comparisons": 2, "trials": 1, "studies": 2, **changes})
