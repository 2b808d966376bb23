import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

import jnn

EXAMPLES = 20
DRAW = np.random.default_rng(0)
INPUTS = DRAW.normal(size=(EXAMPLES, 3)).astype(np.float32)
TARGETS = DRAW.integers(0, 2, EXAMPLES).astype(np.int32)
DATA = (INPUTS, TARGETS)
EVAL = (DRAW.normal(size=(7, 3)).astype(np.float32), DRAW.integers(0, 2, 7).astype(np.int32))


def model():
    return jnn.serial(jnn.dense(4), jnp.tanh, jnn.dense(2))


def objective(layer=None, **options):
    return jnn.supervised(
        layer or model(), jnn.losses.softmax_cross_entropy, metrics={"accuracy": jnn.metrics.accuracy}, **options
    )


# made once: fit compiles once for a Training, a number of steps and a batch size
PLAIN = objective()
NOISY = objective(jnn.serial(jnn.dropout(0.3), jnn.dense(2)))
ADAM = jnn.training(PLAIN, jnn.optim.adam(0.05))
NOISY_ADAM = jnn.training(NOISY, jnn.optim.adam(0.05))


def scores_by_hand(params, inputs, targets, weights=None):
    """The loss and accuracy of PLAIN or NOISY without noise, in float64 by numpy and scipy."""
    params = jax.tree.map(np.float64, params)
    if "dense_0" in params:
        inputs = np.tanh(inputs @ params["dense_0"]["w"] + params["dense_0"]["b"])
    last = params.get("dense_2") or params["dense_1"]
    logits = inputs @ last["w"] + last["b"]
    losses = -scipy.special.log_softmax(logits, -1)[np.arange(len(targets)), targets]
    return {
        "loss": np.float32(np.average(losses, weights=weights)),
        "accuracy": np.float32(np.average(logits.argmax(-1) == targets, weights=weights)),
    }


def recorder():
    """An objective whose metrics are the examples of its batch."""

    def loss(params, state, batch, *, key=None, train=False):
        return jnp.sum(params["w"]), jnn.Aux(state, {"seen": batch})

    return jnn.Objective(lambda key, batch: ({"w": jnp.zeros(1)}, {}), loss)


RECORDER = jnn.training(recorder(), jnn.optim.sgd(0.0))


def batches(key, steps, batch_size=None, **options):
    """Which examples `fit` takes at every step."""
    history = jnn.fit(RECORDER, np.arange(EXAMPLES), key=key, steps=steps, batch_size=batch_size, **options).history
    return np.asarray(history["seen"])


def by_optax(optimizer, params, order, inputs=INPUTS, targets=TARGETS):
    """A training loop without jnn. -> losses, accuracies, the last parameters"""

    def loss_of(params, x, y):
        hidden = jnp.tanh(x @ params["dense_0"]["w"] + params["dense_0"]["b"])
        logits = hidden @ params["dense_2"]["w"] + params["dense_2"]["b"]
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
        return loss, jnp.mean((jnp.argmax(logits, -1) == y).astype(jnp.float32))

    @jax.jit
    def step(params, opt_state, x, y):
        (loss, accuracy), grads = jax.value_and_grad(loss_of, has_aux=True)(params, x, y)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss, accuracy

    with jax.numpy_dtype_promotion("standard"):
        opt_state, losses, accuracies = optimizer.init(params), [], []
        for rows in order:
            params, opt_state, loss, accuracy = step(params, opt_state, inputs[rows], targets[rows])
            losses.append(loss)
            accuracies.append(accuracy)
    return np.array(losses), np.array(accuracies), params


OPTIMIZERS = {
    "sgd": (jnn.optim.sgd(0.3), optax.sgd(0.3)),
    "momentum": (jnn.optim.momentum(0.1), optax.sgd(0.1, momentum=0.9)),
    "adam": (jnn.optim.adam(0.05), optax.adam(0.05)),
    "optax's adamw": (optax.adamw(0.05, weight_decay=0.1), optax.adamw(0.05, weight_decay=0.1)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_fit_equals_a_python_loop_with_optax(name, key):
    ours, theirs = OPTIMIZERS[name]
    train = jnn.training(PLAIN, ours)
    order = np.random.default_rng(1).integers(0, EXAMPLES, (25, 6))
    start = train.init(key, DATA)
    fitted = jnn.fit(train, DATA, key=key, steps=25, order=order, start=start)
    losses, accuracies, params = by_optax(theirs, start.params, order)
    np.testing.assert_allclose(fitted.history["loss"], losses, rtol=1e-5)
    np.testing.assert_allclose(fitted.history["accuracy"], accuracies, rtol=1e-5)
    chex.assert_trees_all_close(fitted.train_state.params, params, rtol=1e-4, atol=1e-6)
    assert fitted.train_state.step == 25


@pytest.mark.parametrize("batch_size", [None, 6])
def test_every_step_takes_the_whole_data_or_the_batch_that_the_recorder_sees(batch_size, key):
    order = 12 * [np.arange(EXAMPLES)] if batch_size is None else batches(key, 30, batch_size)[:12]
    start = ADAM.init(key, DATA)
    fitted = jnn.fit(ADAM, DATA, key=key, steps=12, batch_size=batch_size, start=start)
    losses, _, params = by_optax(optax.adam(0.05), start.params, order)
    np.testing.assert_allclose(fitted.history["loss"], losses, rtol=1e-5)
    chex.assert_trees_all_close(fitted.train_state.params, params, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 5, 20])
def test_each_epoch_is_another_permutation(batch_size, key):
    epochs = batches(key, 3 * EXAMPLES // batch_size, batch_size).reshape(3, EXAMPLES)
    np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(EXAMPLES), (3, 1)))
    assert len(np.unique(epochs, axis=0)) == 3


def test_what_fills_no_batch_is_dropped_and_changes_with_the_epoch(key):
    epochs = batches(key, 30, 6)[:12].reshape(4, 18)
    left = [frozenset(range(EXAMPLES)) - set(epoch) for epoch in epochs.tolist()]
    assert [len(some) for some in left] == [2, 2, 2, 2]
    assert len(set(left)) > 1


def test_the_key_alone_picks_order_parameters_and_noise(key):
    other = jax.random.fold_in(key, 1)
    assert np.any(batches(key, 30, 6) != batches(other, 30, 6))
    first, same, another = (jnn.fit(NOISY_ADAM, DATA, key=k, steps=30, batch_size=6) for k in (key, key, other))
    chex.assert_trees_all_equal(first, same)
    assert np.all(first.history["loss"] != another.history["loss"])
    weights = [jnn.fit(NOISY_ADAM, DATA, key=k, steps=0).train_state.params["dense_1"]["w"] for k in (key, other)]
    assert np.all(weights[0] != weights[1])


def test_noise_is_new_at_every_step(key):
    still = jnn.training(NOISY, jnn.optim.sgd(0.0))
    losses = jnn.fit(still, DATA, key=key, steps=6).history["loss"]
    assert len(np.unique(losses)) == 6


@pytest.mark.parametrize("batch_size", [None, 6])
def test_sixty_steps_equal_thirty_and_thirty_bit_for_bit(batch_size, key):
    once = jnn.fit(NOISY_ADAM, DATA, key=key, steps=60, batch_size=batch_size)
    half = jnn.fit(NOISY_ADAM, DATA, key=key, steps=30, batch_size=batch_size)
    rest = jnn.fit(NOISY_ADAM, DATA, key=key, steps=30, batch_size=batch_size, start=half.train_state)
    chex.assert_trees_all_equal(rest.train_state, once.train_state)
    history = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), half.history, rest.history)
    chex.assert_trees_all_equal(history, once.history)
    assert np.any(half.history["loss"] != rest.history["loss"])


def test_an_order_given_is_taken_and_noise_is_as_with_batch_size(key):
    order = batches(key, 30, 6)
    given = jnn.fit(NOISY_ADAM, DATA, key=key, steps=30, order=order.astype(np.uint8))
    by_size = jnn.fit(NOISY_ADAM, DATA, key=key, steps=30, batch_size=6)
    chex.assert_trees_all_close(given.history, by_size.history, rtol=1e-5)
    np.testing.assert_array_equal(batches(key, 30, order=order.tolist()), order)


@pytest.mark.parametrize("wrong", [EXAMPLES, 10**6, -1, -EXAMPLES - 1])
def test_an_order_out_of_range_gives_nan(wrong, key):
    history = jnn.fit(ADAM, DATA, key=key, steps=2, order=np.array([[0, 1], [2, wrong]])).history
    assert np.isfinite(history["loss"][0])
    assert np.isnan(history["loss"][1])


def test_no_steps_give_the_start_and_an_empty_history(key):
    start = ADAM.init(key, DATA)
    fitted = jnn.fit(ADAM, DATA, key=key, steps=0, batch_size=6, start=start)
    assert jax.tree.map(jnp.shape, fitted.history) == {"loss": (0,), "accuracy": (0,)}
    chex.assert_trees_all_equal(fitted.train_state, start)


def test_data_without_a_leading_axis_in_common_are_one_batch(key):
    graph = {"nodes": jnp.ones((5, 2)), "edges": jnp.zeros(3, jnp.int32), "size": jnp.float32(2.0)}

    def loss(params, state, batch, *, key=None, train=False):
        return jnp.sum(batch["nodes"] @ params["w"]) * batch["size"], jnn.Aux(state, {})

    whole = jnn.Objective(lambda key, batch: ({"w": jnp.ones(batch["nodes"].shape[-1:])}, {}), loss)
    history = jnn.fit(jnn.training(whole, jnn.optim.sgd(0.1)), graph, key=key, steps=2).history
    # 5 nodes of ones, twice: a gradient of 10, a step of 1
    np.testing.assert_allclose(history["loss"], [20.0, 0.0], atol=1e-5)


def test_evaluations_are_those_of_the_parameters_at_their_steps(key):
    start = NOISY_ADAM.init(key, DATA)
    fitted = jnn.fit(NOISY_ADAM, DATA, key=key, steps=12, batch_size=6, start=start, eval_data=EVAL, eval_every=5)
    after, losses, scores = start, [], []
    for _ in range(2):
        after, history = jnn.fit(NOISY_ADAM, DATA, key=key, steps=5, batch_size=6, start=after)
        losses.extend(history["loss"])
        scores.append(scores_by_hand(after.params, *EVAL))
    expected = {name: np.array([some[name] for some in scores]) for name in ("loss", "accuracy")}
    chex.assert_trees_all_close(fitted.history["eval"], expected, rtol=1e-5)
    assert fitted.history["loss"].shape == fitted.history["accuracy"].shape == (12,)
    np.testing.assert_allclose(fitted.history["loss"][:10], losses, rtol=1e-5)


def test_the_only_evaluation_is_at_the_end(key):
    fitted = jnn.fit(NOISY_ADAM, DATA, key=key, steps=4, eval_data=EVAL)
    expected = jax.tree.map(lambda score: score[None], scores_by_hand(fitted.train_state.params, *EVAL))
    chex.assert_trees_all_close(fitted.history["eval"], expected, rtol=1e-5)


def test_state_is_carried_from_step_to_step_and_left_alone_by_evaluation(key):
    def running_mean():
        def apply(params, state, x, *, key=None, train=False):
            if train:
                state = {"mean": 0.5 * state["mean"] + 0.5 * jnp.mean(x, 0)}
            return x - state["mean"], state

        return jnn.Layer(lambda key, x: ({}, {"mean": jnp.zeros(x.shape[-1:])}), apply)

    train = jnn.training(objective(jnn.serial(running_mean(), jnn.dense(2))), jnn.optim.sgd(0.1))
    order = np.arange(12).reshape(3, 4)
    fitted = jnn.fit(train, DATA, key=key, steps=3, order=order, eval_data=EVAL, eval_every=1)
    mean = np.zeros(3)
    for rows in order:
        mean = 0.5 * mean + 0.5 * INPUTS[rows].mean(0)
    np.testing.assert_allclose(fitted.train_state.state["running_mean_0"]["mean"], mean, rtol=1e-5)


def test_a_step_without_training_gives_the_scores_and_the_same_state():
    train_state = NOISY_ADAM.init(jax.random.key(3), DATA)
    after, metrics = NOISY_ADAM.step(train_state, DATA, train=False)
    chex.assert_trees_all_equal(after, train_state)
    chex.assert_trees_all_close(metrics, scores_by_hand(train_state.params, *DATA), rtol=1e-5)


def test_init_reads_shapes_only(key):
    made = ADAM.init(key, DATA)
    chex.assert_trees_all_equal(ADAM.init(key, jax.eval_shape(lambda: DATA)), made)
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(ADAM.init, key, DATA), made)


def test_fit_works_under_jit_and_vmap(key):
    start = NOISY_ADAM.init(key, DATA)

    def run(key, factor):
        factors = start._replace(params=jax.tree.map(lambda p: factor * p, start.params))
        options = {"eval_data": EVAL, "eval_every": 5}
        fitted = jnn.fit(NOISY_ADAM, DATA, key=key, steps=12, batch_size=6, start=factors, **options)
        return fitted.history, fitted.train_state.params

    keys, factors = jax.random.split(key, 2), jnp.array([1.0, 2.0])
    apart = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(run, list(keys), factors))
    chex.assert_trees_all_close(jax.jit(jax.vmap(run))(keys, factors), apart, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [jnn.optim.momentum, jnn.optim.adam])
def test_a_hypergradient_equals_finite_differences(make, key, x64):
    draw = lambda key, shape, dtype: jax.random.normal(key, shape, jnp.float64)
    linear = jnn.supervised(jnn.dense(2, w_init=draw, b_init=draw), jnn.losses.softmax_cross_entropy)
    data, held_out = ((np.float64(inputs), targets) for inputs, targets in (DATA, EVAL))

    def held_out_loss(learning_rate, scale):
        scaled = (scale * data[0], data[1])
        train = jnn.training(linear, make(learning_rate))
        fitted = jnn.fit(train, scaled, key=key, steps=9, batch_size=6, eval_data=held_out, eval_every=3)
        return fitted.history["eval"]["loss"][-1]

    at, small = (0.1, 1.3), 1e-6
    value_and_slopes = jax.jit(jax.value_and_grad(held_out_loss, (0, 1)))
    _, slopes = value_and_slopes(*at)
    for i, slope in enumerate(slopes):
        ahead, behind = (value_and_slopes(*(number + h * (i == j) for j, number in enumerate(at)))[0] for h in (small, -small))
        np.testing.assert_allclose(slope, (ahead - behind) / (2 * small), rtol=1e-5)
    assert slopes[0].dtype == jnp.float64


def counting(objective):
    """-> the objective, and a list that grows whenever its loss is traced"""
    traces = []

    def loss(*args, **options):
        traces.append(1)
        return objective.loss(*args, **options)

    return jnn.Objective(objective.init, loss), traces


def test_second_fit_and_second_evaluation_with_the_same_objects_do_not_recompile(key):
    counted, traces = counting(NOISY)
    train = jnn.training(counted, jnn.optim.adam(0.1))
    seen = []
    for i in range(3):
        data = (INPUTS + i, TARGETS)
        fitted = jnn.fit(train, data, key=jax.random.fold_in(key, i), steps=6, batch_size=5, eval_data=EVAL, eval_every=2)
        jnn.evaluate(counted, fitted.train_state.params, fitted.train_state.state, EVAL, batch_size=3)
        seen.append(len(traces))
    assert seen[0] == seen[1] == seen[2] > 0


def test_going_on_from_a_train_state_compiles_once(key):
    counted, traces = counting(NOISY)
    train = jnn.training(counted, jnn.optim.adam(0.1))
    state, seen = train.init(key, DATA), []
    for _ in range(3):
        state = jnn.fit(train, DATA, key=key, steps=4, batch_size=5, start=state).train_state
        seen.append(len(traces))
    assert seen[0] == seen[1] == seen[2] > 0
    assert state.step == 12


def test_an_optimizer_is_given_what_its_update_takes(key):
    def update(grads, opt_state, params=None, *, value, grad, value_fn):
        elsewhere = value_fn(jax.tree.map(jnp.zeros_like, params))
        given = {"value": value, "gradient": grad, "at_params": value_fn(params), "elsewhere": elsewhere}
        return jax.tree.map(jnp.zeros_like, grads), given

    train = jnn.training(NOISY, jnn.Optimizer(lambda params: (), update))
    start = train.init(key, DATA)
    after, metrics = jax.jit(train.step)(start, DATA)
    given = after.opt_state
    np.testing.assert_allclose(given["value"], metrics["loss"], rtol=1e-6)
    # the same noise: a line search needs one function
    np.testing.assert_allclose(given["at_params"], metrics["loss"], rtol=1e-6)
    np.testing.assert_allclose(given["elsewhere"], math.log(2), rtol=1e-6)
    by_sgd, _ = jax.jit(jnn.training(NOISY, jnn.optim.sgd(1.0)).step)(
        start._replace(opt_state=jnn.optim.sgd(1.0).init({})), DATA
    )
    expected = jax.tree.map(jnp.subtract, start.params, by_sgd.params)
    chex.assert_trees_all_close(given["gradient"], expected, rtol=1e-4, atol=1e-6)


SILENT = jnn.supervised(jnn.dense(2), jnn.losses.softmax_cross_entropy)


@functools.cache
def losses_of_lbfgs():
    train_state = jnn.training(SILENT, optax.lbfgs()).init(jax.random.key(0), DATA)
    optimizer, params, losses = optax.lbfgs(), train_state.params, []
    value_fn = lambda params: SILENT.loss(params, {}, DATA)[0]

    @jax.jit
    def step(params, opt_state):
        value, grads = jax.value_and_grad(value_fn)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params, value=value, grad=grads, value_fn=value_fn)
        return optax.apply_updates(params, updates), opt_state, value

    with jax.numpy_dtype_promotion("standard"), jax.enable_x64(False):
        opt_state = optimizer.init(params)
        for _ in range(5):
            params, opt_state, value = step(params, opt_state)
            losses.append(value)
    return losses


@pytest.mark.parametrize("x64", [False, True])
def test_optaxs_lbfgs_takes_the_steps_of_its_own_loop(x64):
    train = jnn.training(SILENT, optax.lbfgs())
    start = train.init(jax.random.key(0), DATA)
    with jax.enable_x64(x64):
        fitted = jnn.fit(train, DATA, key=start.key, steps=5, start=start)
    np.testing.assert_allclose(fitted.history["loss"], losses_of_lbfgs(), rtol=1e-4)


def test_updates_of_another_shape_are_refused(key, raises):
    wide = jnn.Optimizer(lambda params: (), lambda grads, opt_state, params=None: (jax.tree.map(lambda g: g[None], grads), ()))
    with raises(ValueError, "apply_updates: dense_0/b: parameters are float32 (4,), updates are float32 (1, 4)"):
        jnn.fit(jnn.training(PLAIN, wide), DATA, key=key, steps=1)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (DATA, {"steps": -1}, "steps must not be negative, got -1"),
        (DATA, {"batch_size": 21}, "batch_size must lie between 1 and the 20 examples, got 21"),
        (DATA, {"batch_size": 0}, "batch_size must lie between 1 and the 20 examples, got 0"),
        ((INPUTS, TARGETS[:10]), {"batch_size": 5}, "data need one leading axis of examples, got shapes (20, 3), (10,)"),
        (
            (INPUTS, TARGETS[:10]),
            {"order": np.zeros((3, 2), int)},
            "data need one leading axis of examples, got shapes (20, 3), (10,)",
        ),
        ((INPUTS, 1.0), {"batch_size": 5}, "data need one leading axis of examples, got shapes (20, 3), ()"),
        ((), {"batch_size": 5}, "data need one leading axis of examples, got shapes none"),
        (DATA, {"order": np.zeros((2, 2), np.int32)}, "order must be integers of shape (3, batch), got int32 (2, 2)"),
        (DATA, {"order": np.zeros(3, np.int32)}, "order must be integers of shape (3, batch), got int32 (3,)"),
        (DATA, {"order": np.zeros((3, 2), np.float32)}, "order must be integers of shape (3, batch), got float32 (3, 2)"),
        (
            DATA,
            {"order": np.zeros((3, 2), np.int32), "batch_size": 2},
            "give batch_size or order, not both: an order has its own batches",
        ),
        (DATA, {"eval_every": 1}, "eval_every without eval_data"),
        (DATA, {"eval_data": EVAL, "eval_every": 4}, "eval_every must lie between 1 and the 3 steps, got 4"),
        (DATA, {"eval_data": EVAL, "eval_every": 0}, "eval_every must lie between 1 and the 3 steps, got 0"),
    ],
)
def test_fit_refuses_what_does_not_fit_with_the_numbers(data, options, message, key, raises):
    with raises(ValueError, f"fit: {message}"):
        jnn.fit(ADAM, data, key=key, **{"steps": 3, **options})


@pytest.mark.parametrize("option", [{"steps": 3.0}, {"steps": 3, "batch_size": 2.5}], ids=str)
def test_fit_wants_whole_numbers_whole(option, key):
    with pytest.raises(TypeError):
        jnn.fit(ADAM, DATA, key=key, **option)


def test_errors_of_a_layer_come_through_fit_with_their_path(key, raises):
    start = ADAM.init(key, DATA)
    with raises(ValueError, "dense_0: expected 3 features in the last axis, got (5, 2)"):
        jnn.fit(ADAM, (INPUTS[:, :2], TARGETS), key=key, steps=3, batch_size=5, start=start)


PARAMS = ADAM.init(jax.random.key(5), DATA).params
WEIGHTS = np.where(np.arange(EXAMPLES) % 3 == 0, 0, np.arange(EXAMPLES)).astype(np.float32)


@pytest.mark.parametrize("batch_size", [None, 1, 6, 20, 100])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["unweighted", "weighted"])
def test_evaluate_equals_the_mean_of_the_whole(batch_size, weights):
    data = DATA if weights is None else (*DATA, weights)
    if weights is not None:
        # what is masked out does not count, whatever it is
        data = (np.where(weights[:, None] == 0, np.nan, INPUTS), np.where(weights == 0, -1, TARGETS), weights)
    scores = jnn.evaluate(PLAIN, PARAMS, {}, data, batch_size=batch_size)
    expected = scores_by_hand(PARAMS, *DATA, weights)
    chex.assert_trees_all_close(scores, expected, rtol=1e-5)


@pytest.mark.parametrize("batch_size", [None, 6])
def test_evaluating_nothing_but_masked_examples_gives_the_same_with_and_without_batches(batch_size):
    scores = jnn.evaluate(PLAIN, PARAMS, {}, (*DATA, 0 * WEIGHTS), batch_size=batch_size)
    assert scores == {"loss": 0, "accuracy": 0}


@pytest.mark.parametrize("batch_size", [None, 6])
def test_evaluate_counts_no_penalty_no_augmentation_and_no_noise(batch_size):
    loud = objective(
        jnn.serial(jnn.dropout(0.9), jnn.dense(2)),
        penalty=lambda params: 1e6,
        augment=lambda key, x: 0 * x,
    )
    params, _ = loud.init(jax.random.key(5), DATA)
    scores = jnn.evaluate(loud, params, {}, DATA, batch_size=batch_size)
    chex.assert_trees_all_close(scores, scores_by_hand(params, *DATA), rtol=1e-5)


def test_evaluate_works_under_jit_vmap_and_grad():
    scaled = jax.tree.map(lambda p: jnp.stack([p, 2 * p]), PARAMS)
    losses = jax.jit(jax.vmap(lambda p: jnn.evaluate(PLAIN, p, {}, DATA, batch_size=6)["loss"]))(scaled)
    expected = [scores_by_hand(jax.tree.map(lambda p, i=i: p[i], scaled), *DATA)["loss"] for i in range(2)]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    grads, whole = (
        jax.grad(lambda p, size=size: jnn.evaluate(PLAIN, p, {}, DATA, batch_size=size)["loss"])(PARAMS) for size in (6, None)
    )
    chex.assert_trees_all_close(grads, whole, rtol=1e-4, atol=1e-6)


def test_metrics_that_are_plain_numbers_are_evaluated_in_batches():
    def loss(params, state, batch, *, key=None, train=False):
        return jnp.mean(batch), jnn.Aux(state, {"answer": 42.0})

    plain = jnn.Objective(lambda key, batch: ({}, {}), loss)
    scores = jnn.evaluate(plain, {}, {}, jnp.arange(5.0), batch_size=2)
    np.testing.assert_allclose([scores["loss"], scores["answer"]], [2, 42], rtol=1e-6)


@pytest.mark.parametrize(
    ("data", "batch_size", "message"),
    [
        (DATA, 0, "batch_size 0 of 20 examples"),
        ((INPUTS[:0], TARGETS[:0]), 4, "batch_size 4 of 0 examples"),
        ((INPUTS, TARGETS[:3]), 4, "data need one leading axis of examples, got shapes (20, 3), (3,)"),
    ],
)
def test_evaluate_refuses_what_does_not_fit_with_the_numbers(data, batch_size, message, raises):
    with raises(ValueError, f"evaluate: {message}"):
        jnn.evaluate(PLAIN, PARAMS, {}, data, batch_size=batch_size)
