import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jnn
from jnn.comparison import entrants
from jnn.comparison.errors import InputError
from jnn.comparison.plans import make_plan
from jnn.comparison.spaces import SPACES, UNKNOWN, fixed, log_uniform
from jnn.comparison.studies import FINAL, Setup, run_cell

from tiny import tiny_task


@pytest.mark.parametrize(
    "spec, factory",
    [("adam", jnn.optim.adam), ("optax:adamw", optax.adamw), ("optax.contrib:muon", optax.contrib.muon)],
)
def test_factories_are_found_by_name(spec, factory):
    assert entrants.find_factory(spec) is factory


def test_a_file_can_import_what_lies_beside_it(tmp_path):
    (tmp_path / "helper_beside.py").write_text("rate = 0.25\n")
    (tmp_path / "mine.py").write_text("from helper_beside import rate\ndef mine(learning_rate=rate):\n    pass\n")
    factory = entrants.find_factory(f"{tmp_path / 'mine.py'}:mine")
    assert factory.__defaults__ == (0.25,)


def test_the_learning_rate_gets_a_default_and_comes_first():
    momentum = entrants.enter("m", jnn.optim.momentum, {"momentum": 0.5})
    assert list(momentum.space.items()) == [("learning_rate", SPACES["momentum"]["learning_rate"]), ("momentum", fixed(0.5))]
    assert entrants.enter("lion", optax.lion, {}).space == {"learning_rate": SPACES["lion"]["learning_rate"]}


def test_a_users_function_gets_the_general_default_whatever_its_name():
    def lion(learning_rate):
        raise AssertionError

    assert entrants.enter("mine", lion, {}).space == {"learning_rate": UNKNOWN}


@pytest.mark.parametrize(
    "factory, space, words",
    [
        (jnn.optim.adam, {"beta1": 0.9}, "adam takes no hyperparameter 'beta1', did you mean b1"),
        (lambda rate: None, {}, "takes no learning_rate"),
        (lambda learning_rate, width: None, {}, "needs a value for width"),
        (3, {}, "expected a function of hyperparameters, got int 3"),
    ],
)
def test_a_factory_that_does_not_fit_its_space_is_refused(factory, space, words):
    with pytest.raises(InputError) as error:
        entrants.enter("adam", factory, space)
    assert words in str(error.value)


def test_wide_spaces_have_all_that_the_table_has_for_an_optimizer():
    assert entrants.enter("adamw", optax.adamw, {}, wide=True).space == SPACES["adamw"]
    given = entrants.enter("adamw", optax.adamw, {"b1": 0.8}, wide=True).space
    assert given == SPACES["adamw"] | {"b1": fixed(0.8)}
    assert next(iter(given)) == "learning_rate"


def test_warmup_is_a_share_of_the_steps_of_the_schedule_that_all_share():
    task = tiny_task(steps=40)
    built = entrants.build(entrants.enter("sgd", jnn.optim.sgd, {"warmup": 0.25}), task, {"learning_rate": 1.0, "warmup": 0.25})
    ramp = np.minimum((np.arange(40) + 1) / 10, 1)
    cosine = 0.5 * (1 + np.cos(np.pi * np.arange(40) / 40))
    np.testing.assert_allclose(steps_of(built, 40)[:, 0], -ramp * cosine, rtol=1e-5, atol=1e-7)
    none = entrants.build(entrants.enter("sgd", jnn.optim.sgd, {}), task, {"learning_rate": 1.0, "warmup": 0.0})
    np.testing.assert_allclose(steps_of(none, 40)[:, 0], -cosine, rtol=1e-5, atol=1e-7)


def test_a_factory_with_a_schedule_of_its_own_has_no_warmup_but_its_own():
    def own(learning_rate, steps):
        raise AssertionError

    with pytest.raises(InputError, match="own takes no hyperparameter 'warmup'"):
        entrants.enter("own", own, {"warmup": 0.1})


def test_a_partial_is_a_factory():
    entrant = entrants.enter("p", functools.partial(optax.sgd, momentum=0.5), {})
    assert entrant.space == {"learning_rate": SPACES["sgd"]["learning_rate"]}
    assert entrant.source == entrants.source_hash(optax.sgd)


def steps_of(optimizer, n):
    params = {"w": jnp.ones(2)}
    state, trail = optimizer.init(params), []
    for _ in range(n):
        updates, state = optimizer.update({"w": jnp.array([1.0, -2.0])}, state, params)
        trail.append(updates["w"])
    return np.stack(trail)


def test_updates_are_scaled_by_the_tasks_schedule():
    task = tiny_task()
    built = entrants.build(entrants.enter("sgd", jnn.optim.sgd, {}), task, {"learning_rate": 0.5})
    with jax.numpy_dtype_promotion("standard"):
        by_optax = steps_of(optax.sgd(optax.cosine_decay_schedule(0.5, task.steps)), 20)
    np.testing.assert_allclose(steps_of(built, 20), by_optax, rtol=1e-5, atol=1e-8)


def test_a_factory_that_takes_steps_brings_its_own_schedule():
    def linear(learning_rate, steps):
        return optax.sgd(optax.linear_schedule(learning_rate, 0.0, steps))

    built = entrants.build(entrants.enter("linear", linear, {}), tiny_task(), {"learning_rate": 0.5})
    np.testing.assert_allclose(steps_of(built, 20), steps_of(linear(0.5, 20), 20))


def schedule_free(learning_rate):
    return optax.contrib.schedule_free_sgd(learning_rate)


def averaged(learning_rate):
    return optax.chain(optax.sgd(learning_rate), jnn.optim.ema_params(0.9))


@pytest.mark.parametrize("factory", [schedule_free, averaged, jnn.optim.lbfgs])
def test_an_optimizer_judged_by_other_parameters_follows_no_schedule_and_is_judged_by_them(factory):
    task = tiny_task()
    entrant = entrants.enter("mine", factory, {"learning_rate": 0.5})
    assert entrants.takes_traced(entrant, task, _batch())
    assert entrants.schedule_of(entrant, task, _batch()) == "none"

    plan = make_plan({"mine": factory, "sgd": jnn.optim.sgd}, [task], "sgd", {"mine": {"learning_rate": 0.5}}, 1, 2, 0.01, 0)
    setup = Setup(task, plan)
    cell = run_cell(plan, setup, entrant)
    starts = setup.starts((0, 1), FINAL)
    for study in range(2):
        start = jax.tree.map(lambda a, study=study: a[study], starts)
        # by hand: the optimizer as it is, no schedule around it
        training = jnn.training(task.objective, factory(0.5))
        opened = jnn.TrainState(start.params, start.state, factory(0.5).init(start.params), start.key, jnp.int32(0))
        end = jnn.fit(training, setup.data.pool, key=start.key, steps=task.steps, order=start.order, start=opened).train_state
        test = jax.tree.map(lambda a, start=start: a[start.test], setup.data.pool)
        losses = [
            jnn.evaluate(task.objective, params, end.state, test)["loss"]
            for params in (jnn.optim.eval_params(end.opt_state, end.params), end.params)
        ]
        assert not cell.final_diverged[study]
        np.testing.assert_allclose(cell.final["test"]["loss"][study], losses[0], rtol=1e-5)
        assert abs(losses[0] - losses[1]) > 1e-3 * losses[0]


def test_the_schedule_of_an_optimizer_is_named():
    task = tiny_task()
    assert entrants.schedule_of(entrants.enter("sgd", jnn.optim.sgd, {}), task, _batch()) == "the task's"
    own = entrants.enter("own", lambda learning_rate, steps: averaged(learning_rate), {})
    assert entrants.schedule_of(own, task, _batch()) == "its own"


def test_extra_arguments_pass_through_the_scaling():
    seen = []

    def takes_value(learning_rate):
        def update(grads, opt_state, params=None, *, value):
            seen.append(value)
            return grads, opt_state

        return (lambda params: ()), update

    task = tiny_task()
    assert entrants.takes_traced(entrants.enter("v", takes_value, {}), task, _batch())
    assert seen[0].shape == ()


def _batch():
    return jax.ShapeDtypeStruct((10, 2), jnp.float32), jax.ShapeDtypeStruct((10,), jnp.int32)


def _warmup(learning_rate):
    return optax.adam(optax.warmup_cosine_decay_schedule(0.0, learning_rate, 5, 20))


def test_factories_that_need_numbers_are_told_from_those_that_take_tracers():
    assert entrants.takes_traced(entrants.enter("adam", optax.adam, {}), tiny_task(), _batch())
    assert not entrants.takes_traced(entrants.enter("warmup", _warmup, {}), tiny_task(), _batch())


def _pair(update):
    return lambda learning_rate: ((lambda params: jnp.zeros(2)), update)


@pytest.mark.parametrize(
    "factory, words",
    [
        (lambda learning_rate: 3, "mine returned int, not a pair of functions (init, update)"),
        (lambda learning_rate: (1, 2), "mine returned tuple, not a pair"),
        (
            _pair(lambda g, s, params=None: (jax.tree.map(lambda x: x[None], g), s)),
            "mine on tiny: its updates do not fit the parameters: dense_0/b: parameters are float32 (3,), "
            "updates are float32 (1, 3)",
        ),
        (_pair(lambda g, s, params=None: (jax.tree.map(lambda x: x.astype(jnp.bfloat16), g), s)), "updates are bfloat16 (3,)"),
        (_pair(lambda g, s, params=None: (g["dense_0"], s)), "updates have another structure"),
        (_pair(lambda g, s, params=None: (g, s[:1])), "leaves of init are float32 (2,), leaves of update are float32 (1,)"),
        (_pair(lambda g, s, params=None: {}["key"]), "mine on tiny raises KeyError: 'key'"),
        (_pair(lambda g, s, p=None, *, obj_fn: (g, s)), "missing 1 required keyword-only argument: 'obj_fn'"),
    ],
)
def test_what_is_no_optimizer_is_refused_before_it_runs(factory, words):
    with pytest.raises(InputError) as error:
        entrants.takes_traced(entrants.enter("mine", factory, {"learning_rate": log_uniform(1e-3, 1)}), tiny_task(), _batch())
    assert words in str(error.value)


def test_a_plan_notes_who_evaluates_the_loss_within_a_step():
    optimizers = {
        "adam": jnn.optim.adam,
        "lbfgs": jnn.optim.lbfgs,  # its line search goes over the steps
        "search": optax.lbfgs,  # its line search is inside a step
        "newton_cg": jnn.optim.newton_cg,
        "polyak": optax.polyak_sgd,  # takes the value, and evaluates nothing
    }
    notes = make_plan(optimizers, [tiny_task()], "adam", {}, 1, 2, 0.01, 0).notes
    assert [note.split()[0] for note in notes] == ["search", "newton_cg"]
    assert "equal steps are not equal work" in notes[0]
