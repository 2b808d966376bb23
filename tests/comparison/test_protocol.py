import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jnn
from jnn.comparison import plans, studies
from jnn.comparison.errors import InputError
from jnn.comparison.spaces import log_uniform, uniform
from jnn.data import MissingDataError

from tiny import blobs, tiny_task

ADAM = {"adam": jnn.optim.adam}
SPACES = {"adam": {"learning_rate": log_uniform(1e-3, 1.0)}}


def plan_of(optimizers, task=None, trials=3, count=4, spaces=SPACES, **changes):
    others = {} if len(optimizers) > 1 else {"other": jnn.optim.sgd}
    plan = plans.make_plan(optimizers | others, [task or tiny_task()], "adam", spaces, trials, count, 0.01, 0)
    return plan._replace(**changes)


def cell_of(factory, task=None, arm=0, **options):
    plan = plan_of({"adam": factory}, task, **options)
    setup = studies.Setup(plan.tasks[0], plan)
    return studies.run_cell(plan, setup, plan.entrants[0], arm=arm), setup


# one column of points for each hyperparameter


def test_search_points_fill_every_part_of_every_interval_once():
    space = {"learning_rate": log_uniform(1e-4, 1.0), "decay": uniform(0.5, 0.9)}
    points = studies.search_points(0, 0, 5, 8, space)
    rates, decays = np.log10(points["learning_rate"]) / 4 + 1, (points["decay"] - 0.5) / 0.4
    for unit in (rates, decays):
        np.testing.assert_array_equal(np.sort(np.floor(unit * 8), axis=1), np.tile(np.arange(8), (5, 1)))


def test_every_optimizer_gets_the_same_points_of_the_unit_cube():
    one = studies.search_points(0, 0, 3, 4, {"learning_rate": uniform(0, 1)})
    two = studies.search_points(0, 0, 5, 4, {"learning_rate": uniform(0, 10), "decay": uniform(0, 1)})
    np.testing.assert_allclose(two["learning_rate"][:3], 10 * one["learning_rate"], rtol=1e-12)


def test_another_study_arm_or_seed_has_other_points():
    def points(seed, arm):
        return studies.search_points(seed, arm, 2, 4, {"learning_rate": uniform(0, 1)})["learning_rate"]

    base = points(0, 0)
    assert not np.isin(base[0], base[1]).any()
    assert not np.isin(base, points(0, 1)).any()
    assert not np.isin(base, points(1, 0)).any()


# starts


def starts_of(task, purpose=studies.FINAL):
    plan = plan_of(ADAM, task)
    return studies.Setup(plan.tasks[0], plan).starts((0, 1, 2), purpose)


def test_training_validation_and_test_examples_never_meet():
    start = starts_of(tiny_task(steps=60))
    for validation, test, order in zip(start.validation, start.test, start.order, strict=True):
        parts = [set(np.ravel(part).tolist()) for part in (validation, test, order)]
        assert [len(part) for part in parts] == [30, 30, 60]
        assert len(set.union(*parts)) == 120


def test_each_study_has_its_own_split_and_each_purpose_its_own_seed():
    tune, final = starts_of(tiny_task(), studies.TUNE), starts_of(tiny_task())
    np.testing.assert_array_equal(tune.test, final.test)
    assert set(final.test[0].tolist()) != set(final.test[1].tolist())
    assert not np.allclose(tune.params["dense_0"]["w"], final.params["dense_0"]["w"])
    assert not np.array_equal(tune.order, final.order)


def test_an_official_test_part_stays_whole():
    start = starts_of(tiny_task(load=lambda: blobs(official_test=True)))
    assert start.test.shape == (3, 0)
    assert start.initial["test"]["loss"].shape == (3,)
    assert max(start.order.max(), start.validation.max()) < 90


# runs


@pytest.fixture(scope="module")
def adam_cell():
    return cell_of(jnn.optim.adam)


def by_hand(setup, study, rate, purpose):
    """The same run as a Python loop over optax's adam."""
    task, data = setup.task, setup.data
    start = jax.tree.map(lambda a: a[study], setup.starts((0, 1, 2, 3), purpose))
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, task.steps))

    def loss(params, indices):
        x, y = data.pool[0][indices], data.pool[1][indices]
        hidden = jax.nn.relu(x @ params["dense_0"]["w"] + params["dense_0"]["b"])
        logits = hidden @ params["dense_2"]["w"] + params["dense_2"]["b"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    params, opt_state = start.params, optimizer.init(start.params)
    step = jax.jit(jax.value_and_grad(loss))
    training = []
    for indices in start.order:
        value, grads = step(params, indices)
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimizer.update(grads, opt_state)
        params = optax.apply_updates(params, updates)
        training.append(value)
    return {
        "validation": loss(params, start.validation),
        "test": loss(params, start.test),
        "training": np.reshape(training, (4, 5)).mean(axis=1),
    }


def test_a_final_run_is_the_winner_trained_anew(adam_cell):
    cell, setup = adam_cell
    rate = cell.hyperparameters["learning_rate"][2, cell.winner[2]]
    expected = by_hand(setup, 2, rate, studies.FINAL)
    np.testing.assert_allclose(cell.final["validation"]["loss"][2], expected["validation"], rtol=1e-4)
    np.testing.assert_allclose(cell.final["test"]["loss"][2], expected["test"], rtol=1e-4)
    np.testing.assert_allclose(cell.curves["training"][2], expected["training"], rtol=1e-4)


def test_a_trial_is_a_run_of_its_own_point(adam_cell):
    cell, setup = adam_cell
    expected = by_hand(setup, 1, cell.hyperparameters["learning_rate"][1, 0], studies.TUNE)
    np.testing.assert_allclose(cell.tune_validation[1, 0], expected["validation"], rtol=1e-4)


def test_the_winner_has_the_least_validation_loss(adam_cell):
    cell, _ = adam_cell
    np.testing.assert_array_equal(cell.winner, cell.tune_validation.argmin(axis=1))


def test_curves_end_at_the_final_validation_loss(adam_cell):
    cell, _ = adam_cell
    np.testing.assert_array_equal(cell.curves["step"], [5, 10, 15, 20])
    sound = ~cell.final_diverged
    assert sound.sum() >= 2
    ends = cell.curves["validation"][:, -1]
    np.testing.assert_allclose(ends[sound], cell.final["validation"]["loss"][sound], rtol=1e-6)


@pytest.mark.parametrize("lanes", [3, 12])
def test_the_number_of_lanes_does_not_change_the_results(adam_cell, lanes):
    cell, _ = cell_of(jnn.optim.adam, lanes=lanes)
    np.testing.assert_allclose(cell.tune_validation, adam_cell[0].tune_validation, rtol=1e-4)
    np.testing.assert_allclose(cell.final["test"]["loss"], adam_cell[0].final["test"]["loss"], rtol=1e-4)


def test_over_a_hundred_steps_the_number_of_lanes_changes_the_last_digits_alone():
    fixed = {"adam": {"learning_rate": 0.01}}
    curves = [
        cell_of(jnn.optim.adam, tiny_task(steps=100, points=10), spaces=fixed, trials=1, lanes=lanes)[0].curves["training"]
        for lanes in (1, 4)
    ]
    np.testing.assert_allclose(*curves, rtol=1e-5)


def test_populations_are_cut_into_chunks_that_fit_the_memory(adam_cell, monkeypatch):
    whole, setup = adam_cell
    assert whole.lanes == 4
    shared = sum(a.nbytes for a in jax.tree.leaves(setup.data))
    needed = []
    fitting = studies._fitting_lanes

    def seen(program, lanes, data):
        needed.append((lanes, program.memory_analysis()))
        return fitting(program, lanes, data)

    monkeypatch.setattr(studies, "_fitting_lanes", seen)
    cell_of(jnn.optim.adam)
    assert len(needed) == 2  # of the program of starts, and of the program of runs
    per_lane = max(a.temp_size_in_bytes + a.output_size_in_bytes + a.argument_size_in_bytes - shared for _, a in needed) / 4
    monkeypatch.setattr(studies, "memory_per_program", lambda: shared + int(2.5 * per_lane))
    cut, _ = cell_of(jnn.optim.adam)
    assert cut.lanes == 2
    np.testing.assert_allclose(cut.tune_validation, whole.tune_validation, rtol=1e-4)
    monkeypatch.setattr(studies, "memory_per_program", lambda: 0)
    assert cell_of(jnn.optim.adam)[0].lanes == 1  # there is no less than one


def test_starts_that_do_not_fit_the_memory_are_never_made(monkeypatch):
    calls = []
    make = studies.Setup._make
    monkeypatch.setattr(studies.Setup, "_make", lambda self, *given: calls.append(len(given[0])) or make(self, *given))
    monkeypatch.setattr(studies, "memory_per_program", lambda: 0)
    cell_of(jnn.optim.adam)
    assert set(calls) == {1}


def test_points_that_do_not_divide_the_steps_leave_the_rest_out_of_the_curves():
    curves = cell_of(jnn.optim.adam, tiny_task(steps=23, points=5))[0].curves  # an evaluation every four steps
    np.testing.assert_array_equal(curves["step"], [4, 8, 12, 16, 20])
    cut = cell_of(jnn.optim.adam, tiny_task(steps=26, points=10))[0].curves
    assert cut["training"].shape == cut["validation"].shape == (4, len(cut["step"])) == (4, 10)


def test_fewer_steps_than_points_are_evaluated_at_each():
    plan = plans.make_plan(ADAM | {"sgd": jnn.optim.sgd}, [tiny_task()], "adam", {}, 2, 2, 0.01, 0, steps=3)
    assert (plan.tasks[0].steps, plan.tasks[0].points) == (3, 3)


def test_a_final_run_that_fails_on_the_test_part_alone_counts_as_the_loss_at_initialisation():
    def load():  # far away from all that is trained on
        examples = blobs(official_test=True)
        return examples._replace(test=(examples.test[0] * -1e3, examples.test[1]))

    cell, setup = cell_of(jnn.optim.adam, tiny_task(load=load))
    initial = setup.starts((0, 1, 2, 3), studies.FINAL).initial
    assert (cell.curves["validation"][:, -1] < initial["validation"]["loss"]).all()
    assert cell.final_diverged.any()
    expected = np.where(cell.final_diverged, initial["test"]["loss"], cell.final["test"]["loss"])
    np.testing.assert_array_equal(cell.final["test"]["loss"], expected)
    assert (expected <= initial["test"]["loss"]).all()


def test_separate_studies_of_the_reference_set_the_target(adam_cell):
    cell, _ = adam_cell
    assert cell.target_losses.shape == (2,)
    assert not np.isin(cell.target_losses, cell.final["validation"]["loss"]).any()
    more, _ = cell_of(jnn.optim.adam, count=6)  # what is separate of four studies are the next two
    np.testing.assert_allclose(cell.target_losses, more.final["validation"]["loss"][4:], rtol=1e-4)


def test_a_factory_that_needs_numbers_gives_what_it_gives_with_tracers(adam_cell):
    def concrete(learning_rate):
        return jnn.optim.adam(learning_rate if learning_rate > 0 else 0.0)

    cell, _ = cell_of(concrete)
    np.testing.assert_allclose(cell.final["test"]["loss"], adam_cell[0].final["test"]["loss"], rtol=1e-4)


def test_another_arm_tunes_on_its_own_points_and_seed_in_the_same_studies(adam_cell):
    cell, _ = cell_of(jnn.optim.adam, arm=1)
    assert not np.isin(cell.hyperparameters["learning_rate"], adam_cell[0].hyperparameters["learning_rate"]).any()

    fixed = {"adam": {"learning_rate": 0.05}}
    first, second = (cell_of(jnn.optim.adam, arm=arm, spaces=fixed, trials=1)[0] for arm in (0, 1))
    assert not np.isin(first.tune_validation, second.tune_validation).any()
    np.testing.assert_array_equal(first.final["test"]["loss"], second.final["test"]["loss"])


def test_tuning_and_winners_do_not_depend_on_the_test_part(adam_cell):
    def official(poison):
        def load():
            examples = blobs(official_test=True)
            return examples._replace(test=(examples.test[0] * poison, examples.test[1]))

        return cell_of(jnn.optim.adam, tiny_task(load=load))[0]

    honest, poisoned = official(1), official(np.float32(np.nan))
    np.testing.assert_array_equal(honest.tune_validation, poisoned.tune_validation)
    np.testing.assert_array_equal(honest.winner, poisoned.winner)


def test_a_diverged_run_counts_as_the_loss_at_initialisation():
    def nan(learning_rate):
        return (lambda params: ()), lambda g, s, params=None: (jax.tree.map(lambda x: x * jnp.nan, g), s)

    cell, setup = cell_of(nan)
    initial = setup.starts((0, 1, 2, 3), studies.FINAL).initial
    assert cell.tune_diverged.all()
    assert cell.final_diverged.all()
    np.testing.assert_array_equal(cell.final["test"]["loss"], initial["test"]["loss"])
    np.testing.assert_array_equal(cell.final["test"]["accuracy"], initial["test"]["accuracy"])


def test_a_run_that_ends_above_its_beginning_has_diverged():
    def ascent(learning_rate):
        return (lambda params: ()), lambda g, s, params=None: (jax.tree.map(lambda x: learning_rate * x, g), s)

    assert cell_of(ascent)[0].final_diverged.all()


def test_a_diverged_trial_never_wins():
    def mostly_nan(learning_rate):
        init, update = jnn.optim.adam(0.05)

        def broken(grads, opt_state, params=None):
            updates, opt_state = update(grads, opt_state, params)
            bad = jnp.where(learning_rate > 0.1, jnp.nan, 1.0)
            return jax.tree.map(lambda u: u * bad, updates), opt_state

        return init, broken

    cell, _ = cell_of(mostly_nan)
    winners = cell.hyperparameters["learning_rate"][np.arange(4), cell.winner]
    assert cell.tune_diverged.any()
    assert (winners <= 0.1).all()
    assert not cell.final_diverged.any()


# the whole


@pytest.fixture(scope="module")
def comparison():
    def loser(learning_rate):
        init, update = jnn.optim.adam(learning_rate)

        def tiny(grads, opt_state, params=None):
            updates, opt_state = update(grads, opt_state, params)
            return jax.tree.map(lambda u: 1e-6 * u, updates), opt_state

        return init, tiny

    entrants = ADAM | {"again": jnn.optim.adam, "loser": loser}
    return jnn.compare(entrants, [tiny_task(), tiny_task("second", steps=16)], trials=4, studies=12)


def test_identical_optimizers_are_equivalent_and_a_planted_loser_is_worse(comparison):
    verdicts = comparison.verdicts.set_index(["task", "optimizer"]).verdict
    assert {task: verdicts[task, "again"] for task in ("tiny", "second")} == dict.fromkeys(("tiny", "second"), "equivalent")
    assert {task: verdicts[task, "loser"] for task in ("tiny", "second")} == dict.fromkeys(("tiny", "second"), "worse")


def test_verdicts_follow_from_the_final_runs(comparison):
    finals = comparison.finals().pivot(index=["task", "study"], columns="optimizer", values="test_loss")
    for row in comparison.verdicts.itertuples():
        differences = finals.loc[row.task, row.optimizer] - finals.loc[row.task, "adam"]
        np.testing.assert_allclose(row.difference, differences.mean(), rtol=1e-5, atol=1e-9)


def test_the_same_seed_gives_the_same_comparison_and_another_seed_another():
    def losses(seed):
        result = jnn.compare(ADAM | {"sgd": jnn.optim.sgd}, [tiny_task()], trials=2, studies=2, seed=seed)
        return result.finals().test_loss.to_numpy()

    first = losses(3)
    np.testing.assert_array_equal(first, losses(3))
    assert not np.isin(first, losses(4)).any()


def test_a_task_without_its_data_is_left_out_with_a_note():
    def absent():
        raise MissingDataError("blobs are missing")

    absent_task = tiny_task("absent", load=absent)
    plan = plans.make_plan(ADAM | {"sgd": jnn.optim.sgd}, [tiny_task(), absent_task], "adam", {}, 2, 2, 0.01, 0)
    assert [task.name for task in plan.tasks] == ["tiny"]
    assert plan.notes == ["absent was left out: blobs are missing"]
    with pytest.raises(MissingDataError, match="blobs are missing"):
        plans.make_plan(ADAM | {"sgd": jnn.optim.sgd}, [absent_task], "adam", {}, 2, 2, 0.01, 0)


def test_an_error_in_one_cell_stops_the_comparison():
    calls = []

    def breaks_later(learning_rate):
        calls.append(0)
        if len(calls) > 1:  # the first call is the check
            raise ArithmeticError("only when run")
        return jnn.optim.adam(learning_rate)

    with pytest.raises(ArithmeticError, match="only when run"):
        jnn.compare(ADAM | {"breaks": breaks_later}, [tiny_task()], trials=2, studies=2)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"trials": 0}, "trials must be a whole number of at least 1, got 0"),
        ({"studies": 1}, "studies must be a whole number of at least 2, got 1: an interval needs at least two"),
        ({"studies": 2.5}, "studies must be a whole number"),
        ({"margin": 1.0}, "margin is a share"),
        ({"tasks": "tiny"}, "tasks must be a list"),
        ({"tasks": []}, "tasks must be a list"),
        ({"tasks": ["digits-mpl"]}, "there is no task 'digits-mpl', did you mean digits-mlp"),
        ({"tasks": ["digits-mlp", "digits-mlp"]}, "a task is named twice"),
        ({"reference": "sdg"}, "the reference 'sdg' is not among the optimizers adam, sgd"),
        ({"optimizers": ADAM}, "there is nothing to compare adam with"),
        ({"spaces": {"adm": {}}}, "a space is given for 'adm'"),
        ({"trials": {"adam": 2, "sgd": 3}}, "unequal budgets make a comparison unfair: trials adam 2, sgd 3"),
        ({"steps": {"adam": 20, "sgd": 30}}, "unequal budgets make a comparison unfair: steps adam 20, sgd 30"),
        ({"trials": {"adam": 2}}, "trials must be one number, or one for each of adam, sgd: 'sgd' is not in both"),
        ({"trials": True}, "trials must be a whole number"),
        ({"tasks": [tiny_task(steps=3)]}, "tiny: a run of 3 steps has no 4 points to be evaluated at"),
        ({"size": "large"}, "a size is 'quick' or 'full', got 'large'"),
        ({"tasks": [tiny_task(batch_size=100)]}, "tiny: 120 examples less 60 held out do not fill a batch of 100"),
    ],
)
def test_bad_arguments_are_refused_before_anything_runs(changes, words):
    arguments = {"optimizers": ADAM | {"sgd": jnn.optim.sgd}, "tasks": [tiny_task()], "trials": 2, "studies": 2} | changes
    with pytest.raises(InputError) as error:
        jnn.compare(**arguments)
    assert words in str(error.value)


def test_unequal_budgets_run_when_asked_for_and_the_headline_says_so():
    found = jnn.compare(
        ADAM | {"sgd": jnn.optim.sgd},
        [tiny_task()],
        trials={"adam": 2, "sgd": 3},
        steps={"adam": 20, "sgd": 40},
        studies=2,
        unequal=True,
    )
    counts = found.trials.groupby(["optimizer", "phase"]).size()
    assert (counts["adam", "tune"], counts["sgd", "tune"], counts["sgd", "final"]) == (4, 6, 2)
    assert found.curves["tiny", "sgd"]["step"][-1] == 2 * found.curves["tiny", "adam"]["step"][-1]
    assert "unequal" in str(found).lower()


def test_the_same_steps_for_all_replace_the_tasks():
    found = jnn.compare(ADAM | {"sgd": jnn.optim.sgd}, [tiny_task()], trials=1, steps=8, studies=2)
    assert found.protocol["tasks"]["tiny"]["steps"] == 8
    assert "unequal" not in str(found).lower()


def test_a_longer_run_begins_as_the_shorter_one():
    plan = plan_of(ADAM)
    short, long = (studies.Setup(plan.tasks[0]._replace(steps=steps), plan).starts((0, 1), studies.TUNE) for steps in (20, 40))
    np.testing.assert_array_equal(long.order[:, :20], short.order)


def test_time_of_a_step_and_memory_of_the_state_are_measured():
    found = jnn.compare(ADAM | {"sgd": jnn.optim.sgd}, [tiny_task()], trials=1, studies=2).timing
    assert found["tiny", "adam"]["seconds"] == found["tiny", "adam"]["reference_seconds"]
    assert found["tiny", "sgd"]["reference_seconds"] != found["tiny", "adam"]["seconds"]
    parameters = 2 * 3 + 3 + 3 * 3 + 3
    assert found["tiny", "adam"]["state_bytes"] == 2 * 4 * parameters
    assert found["tiny", "sgd"]["state_bytes"] == 0
    assert all(0 < s < 1 for of in found.values() for s in of["seconds"])
