"""newton, newton_cg and lbfgs, against scipy and closed formulas."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
import scipy.sparse.linalg
from jax.extend.core import jaxprs_in_params
from scipy.optimize._dcsrch import DCSRCH

import jnn
from jnn import optim
from jnn.optim import line_searches


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def beale(x):
    return sum((c - x[0] * (1 - x[1] ** k)) ** 2 for k, c in ((1, 1.5), (2, 2.25), (3, 2.625)))


def powell_singular(x):
    a, b, c, d = x
    return (a + 10 * b) ** 2 + 5 * (c - d) ** 2 + (b - 2 * c) ** 4 + 10 * (a - d) ** 4


def wood(x):
    a, b, c, d = x
    ends = 100 * (b - a**2) ** 2 + (1 - a) ** 2 + 90 * (d - c**2) ** 2 + (1 - c) ** 2
    return ends + 10 * (b + d - 2) ** 2 + 0.1 * (b - d) ** 2


def brown_badly_scaled(x):
    return (x[0] - 1e6) ** 2 + (x[1] - 2e-6) ** 2 + (x[0] * x[1] - 2) ** 2


def helical_valley(x):
    theta = jnp.arctan2(x[1], x[0]) / (2 * np.pi)
    return 100 * ((x[2] - 10 * theta) ** 2 + (jnp.hypot(x[0], x[1]) - 1) ** 2) + x[2] ** 2


def trigonometric(x):
    i = jnp.arange(1.0, x.size + 1, dtype=x.dtype)
    return jnp.sum((x.size - jnp.sum(jnp.cos(x)) + i * (1 - jnp.cos(x)) - jnp.sin(x)) ** 2)


ROTATION = np.linalg.qr(np.random.default_rng(0).normal(size=(50, 50)))[0]
HESSIAN = ROTATION @ np.diag(np.logspace(0, 4, 50)) @ ROTATION.T


def quadratic(x):
    return 0.5 * jnp.vdot(x, jnp.asarray(HESSIAN, x.dtype) @ x)


# More, Garbow & Hillstrom 1981, from their standard starts; a quadratic of condition number 1e4
FUNCTIONS = {
    "rosenbrock": (rosenbrock, [-1.2, 1.0]),
    "rosenbrock-10": (rosenbrock, [-1.2, 1.0] * 5),
    "rosenbrock-100": (rosenbrock, [-1.2, 1.0] * 50),
    "beale": (beale, [1.0, 1.0]),
    "powell-singular": (powell_singular, [3.0, -1.0, 0.0, 1.0]),
    "wood": (wood, [-3.0, -1.0, -3.0, -1.0]),
    "brown-badly-scaled": (brown_badly_scaled, [1.0, 1.0]),
    "helical-valley": (helical_valley, [-1.0, 0.0, 0.0]),
    "trigonometric": (trigonometric, [0.1] * 10),
    "quadratic": (quadratic, [1.0] * 50),
}


def trajectory(optimizer, loss, params, steps):
    """-> parameters, values, judged parameters, whether a line begins: before or (the last two) after each step"""

    def step(carry, _):
        params, opt_state = carry
        value, grads = jax.value_and_grad(loss)(params)
        updates, after = optim.updates.call_update(optimizer, grads, opt_state, params, value=value, value_fn=loss)
        judged = optim.eval_params(after, params)
        return (optim.apply_updates(params, updates), after), (params, value, judged)

    return jax.jit(lambda params: jax.lax.scan(step, (params, optimizer.init(params)), length=steps)[1])(params)


def by_scipy(loss, start):
    """-> the result, and the points at which scipy evaluated"""
    points, value_and_grad = [], jax.jit(jax.value_and_grad(loss))

    def function(x):
        points.append(x.copy())
        return jax.tree.map(np.asarray, value_and_grad(jnp.asarray(x)))

    options = {"gtol": 1e-5, "ftol": 0, "maxfun": 5000, "maxiter": 5000}
    return scipy.optimize.minimize(function, np.asarray(start), jac=True, method="L-BFGS-B", options=options), points


# where rounding does not part them within a few dozen steps
SAME_POINTS = ("rosenbrock", "beale", "powell-singular", "wood", "brown-badly-scaled", "helical-valley")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_lbfgs_evaluates_where_scipys_does_and_no_more_often(name, x64):
    loss, start = FUNCTIONS[name]
    theirs, points = by_scipy(loss, start)
    assert np.max(np.abs(theirs.jac)) <= 1e-5
    ours, _, judged = trajectory(optim.lbfgs(), loss, jnp.asarray(start), int(1.2 * theirs.nfev))
    slopes = np.max(np.abs(jax.jit(jax.vmap(jax.grad(loss)))(judged)), axis=1)
    assert np.min(slopes) <= 1e-5
    if name in SAME_POINTS:
        same = min(25, len(points))
        np.testing.assert_allclose(ours[:same], np.stack(points[:same]), rtol=1e-6, atol=1e-9)


# More & Thuente 1994, section 5: functions of the step, all with a slope < 0 at 0
LINES = {
    "quotient": lambda t: -t / (t**2 + 2),
    "quartic": lambda t: (t + 0.004) ** 5 - 2 * (t + 0.004) ** 4,
    "wiggly": lambda t: jnp.where(
        t <= 0.99, 1 - t, jnp.where(t >= 1.01, t - 1, (t - 1) ** 2 / 0.02 + 0.005)
    ) + 1.98 / (39 * np.pi) * jnp.sin(39 * np.pi / 2 * t),
    "steep": lambda t: 0.999 * jnp.sqrt((1 - t) ** 2 + 1e-6) + 0.001 * jnp.sqrt(t**2 + 1e-6),
    "bowl": lambda t: (t - 5) ** 4,
}  # fmt: skip


@pytest.mark.parametrize("first", [1e-3, 1e-1, 1.0, 10.0, 1e3])
@pytest.mark.parametrize("name", LINES)
def test_line_search_tries_the_steps_of_minpack(name, first, x64):
    phi = jax.jit(jax.value_and_grad(LINES[name]))
    minpack = DCSRCH(None, None, line_searches.DECREASE, line_searches.CURVATURE, line_searches.PRECISION, 0.0, 1e10)
    value, slope = map(float, phi(0.0))
    step, _, _, task = minpack._iterate(first, value, slope, b"START")
    search = line_searches.begin(jnp.float64(value), jnp.float64(slope), jnp.float64(first))
    advance = jax.jit(line_searches.advance)
    for _ in range(line_searches.TRIALS):
        assert task[:2] == b"FG"
        np.testing.assert_allclose(search.step, step, rtol=1e-9)
        value, slope = map(float, phi(float(search.step)))
        step, _, _, task = minpack._iterate(step, value, slope, b"FG")
        search, accepted, failed = advance(search, jnp.float64(value), jnp.float64(slope))
        if accepted or failed:
            break
    assert accepted
    assert not failed
    assert task[:4] in (b"CONV", b"WARN")


def test_lbfgs_lanes_of_a_vmap_do_as_alone(x64):
    starts = jnp.asarray([[-1.2, 1.0], [2.0, -1.5], [0.0, 0.0], [30.0, 30.0]])
    optimizer = optim.lbfgs()
    together = jax.vmap(lambda start: trajectory(optimizer, rosenbrock, start, 40))(starts)
    assert len({tuple(np.asarray(values).argsort()) for values in together[1]}) == len(starts)
    run = jax.jit(lambda start: trajectory(optimizer, rosenbrock, start, 40))
    for lane, start in enumerate(starts):
        alone = run(start)
        chex.assert_trees_all_close(jax.tree.map(lambda a, lane=lane: a[lane], together), alone, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("wall", ["nan", "inf"])
def test_lbfgs_shrinks_a_step_into_what_is_not_finite(wall, x64):
    def loss(x):  # log gives nan below 0; a slope not finite at 0
        return jnp.sum(1e3 * x - jnp.log(x)) if wall == "nan" else jnp.sum(jnp.where(x > 0, 1e3 * x - jnp.log(x), jnp.inf))

    params, values, judged = trajectory(optim.lbfgs(), loss, jnp.asarray([1.0, 0.5]), 60)
    assert not np.all(np.isfinite(values))
    assert np.all(np.isfinite(params))
    np.testing.assert_allclose(judged[-1], 1e-3, rtol=1e-5)


def test_lbfgs_waits_where_the_first_value_is_not_finite_and_goes_on_with_another():
    optimizer, params = optim.lbfgs(), {"w": jnp.ones(2)}
    update = jax.jit(optimizer.update)
    nan = jax.tree.map(lambda p: p * jnp.nan, params)
    updates, opt_state = update(nan, optimizer.init(params), params, value=jnp.float32(jnp.nan))
    chex.assert_trees_all_equal(updates, {"w": jnp.zeros(2)})
    updates, _ = update(params, opt_state, params, value=jnp.float32(1.0))
    np.testing.assert_allclose(updates["w"], -np.ones(2) / np.sqrt(2), rtol=1e-6)


def test_lbfgs_goes_back_to_the_best_point_when_a_search_fails_and_begins_with_steepest_descent(x64):
    # the gradient is wrong after the first step: no point of the line is good
    optimizer = optim.lbfgs()
    update = jax.jit(optimizer.update)
    x, opt_state = jnp.asarray([3.0, 4.0]), optimizer.init(jnp.asarray([3.0, 4.0]))
    for step in range(line_searches.TRIALS + 1):
        updates, opt_state = update(x, opt_state, x, value=jnp.float64(2.0 if step else 1.0))
        before, x = x, x + updates
        if opt_state.fresh:
            break
    assert opt_state.fresh
    assert step > 1
    np.testing.assert_allclose(x, [3, 4], rtol=1e-14)
    np.testing.assert_allclose(optim.eval_params(opt_state, before), [3, 4], rtol=1e-14)
    updates, opt_state = update(x, opt_state, x, value=jnp.float64(1.0))
    np.testing.assert_allclose(updates, [-0.6, -0.8], rtol=1e-12)
    assert not np.any(opt_state.memory.weights)


def test_lbfgs_is_judged_by_the_best_point_and_never_by_a_trial(x64):
    _, values, judged = trajectory(optim.lbfgs(), rosenbrock, jnp.asarray([-1.2, 1.0] * 5), 92)
    best = jax.jit(jax.vmap(rosenbrock))(judged)
    assert np.any(np.diff(values) > 0)
    assert np.all(np.diff(best) <= 0)
    np.testing.assert_allclose(best, np.minimum.accumulate(values), rtol=1e-10)


def test_lbfgs_learning_rate_is_the_first_trial_and_may_be_traced_or_a_schedule():
    x = jnp.asarray([0.3, 0.4])
    first = lambda optimizer: jax.jit(optimizer.update)(x, optimizer.init(x), x, value=jnp.float32(0.125))[0]
    # |g| = 0.5 < 1: the whole gradient
    np.testing.assert_allclose(first(optim.lbfgs()), -x, rtol=1e-6)
    rates = jnp.asarray([0.1, 0.5])
    np.testing.assert_allclose(jax.vmap(lambda rate: first(optim.lbfgs(rate)))(rates), -rates[:, None] * x, rtol=1e-6)
    np.testing.assert_allclose(first(optim.lbfgs(lambda count: 0.5 / (1 + count.astype(float)))), -0.5 * x, rtol=1e-6)


def digits_like(dtype=jnp.float32):
    draw = np.random.default_rng(0)
    inputs, targets = draw.normal(size=(60, 5)), draw.integers(3, size=60)
    data = jnp.asarray(inputs, dtype), jnp.asarray(targets)
    model = jnn.serial(jnn.dense(3))
    return jnn.supervised(model, jnn.losses.softmax_cross_entropy), data


@pytest.mark.parametrize("make", [optim.lbfgs, optim.newton_cg, lambda: optim.newton(damping=1e-4)])
def test_a_training_reaches_the_optimum_that_scipy_finds(make, key):
    objective, data = digits_like()
    fitted = jnn.fit(jnn.training(objective, make()), data, key=key, steps=40, eval_data=data)
    (w, b), state = (jax.tree.map(np.asarray, fitted.train_state.params)["dense_0"][name] for name in "wb"), {}

    def loss(vector):
        params = {"dense_0": {"w": vector[:15].reshape(5, 3), "b": vector[15:]}}
        return objective.loss(params, state, data)[0]

    best = scipy.optimize.minimize(jax.jit(loss), np.concatenate([w.ravel(), b]), jac=jax.jit(jax.grad(loss)), method="BFGS")
    np.testing.assert_allclose(fitted.history["eval"]["loss"][0], best.fun, rtol=1e-5)
    assert best.fun < 0.99 * fitted.history["loss"][0]


OPTIMIZERS = {"newton": lambda: optim.newton(damping=0.1), "newton_cg": optim.newton_cg, "lbfgs": optim.lbfgs}
every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


def square(params):
    wide = [leaf.astype(jnp.float32) if leaf.dtype == jnp.bfloat16 else leaf for leaf in jax.tree.leaves(params)]
    return sum((jnp.sum(jnp.square(leaf - 1)).astype(jnp.float32) for leaf in wide), jnp.float32(0))


@every_optimizer
@pytest.mark.parametrize("dtype, double", [(jnp.bfloat16, False), (jnp.float32, True), (jnp.float64, True)])
def test_dtypes_scalars_and_empty_leaves(make, dtype, double):
    with jax.enable_x64(double):
        params = {"w": jnp.full((2, 3), 3.0, dtype), "scalar": jnp.asarray(2.0, dtype), "none": jnp.zeros((0, 3), dtype)}
        optimizer = make()
        opt_state = optimizer.init(params)
        update = lambda params: optimizer.update(params, opt_state, params, **extra(optimizer, square, params))
        updates, after = jax.eval_shape(update, params)
        chex.assert_trees_all_equal_shapes_and_dtypes((updates, after), (params, opt_state))
        floats = {leaf.dtype for leaf in jax.tree.leaves(after) if jnp.issubdtype(leaf.dtype, jnp.floating)}
        assert floats <= {jnp.dtype(jnp.float64 if dtype == jnp.float64 else jnp.float32)}
        steps, _, judged = trajectory(optimizer, square, params, 12)
        last = jax.tree.map(lambda a: a[-1].astype(jnp.float32), judged)
        chex.assert_trees_all_close(last, jax.tree.map(jnp.ones_like, last), rtol=1e-2)
        chex.assert_trees_all_equal_shapes_and_dtypes(jax.tree.map(lambda a: a[0], steps), params)


def extra(optimizer, loss, params):
    """What of `value` and `value_fn` an optimizer takes"""
    names = optimizer.update.__kwdefaults__
    return {name: given for name, given in (("value", loss(params)), ("value_fn", loss)) if name in names}


@every_optimizer
@pytest.mark.parametrize("params", [{}, {"dense_0": {}}, ()], ids=str)
def test_empty_trees_stay_empty(make, params):
    optimizer = make()
    opt_state = optimizer.init(params)
    updates, after = jax.jit(lambda p: optimizer.update(p, opt_state, p, **extra(optimizer, square, p)))(params)
    assert updates == params
    chex.assert_trees_all_equal_shapes_and_dtypes(after, opt_state)


@every_optimizer
def test_mixed_dtypes(make, x64):
    params = {"a": jnp.full(2, 3.0, jnp.bfloat16), "b": jnp.full(2, 3.0, jnp.float32), "c": jnp.full(2, 3.0, jnp.float64)}
    _, _, judged = trajectory(make(), square, params, 12)
    for leaf in jax.tree.leaves(judged):
        np.testing.assert_allclose(leaf[-1].astype(jnp.float32), 1, rtol=1e-2)


@every_optimizer
def test_a_gradient_of_zero_stays_where_it_is(make):
    params = {"w": jnp.ones(3)}
    steps, _, judged = trajectory(make(), square, params, 5)
    np.testing.assert_array_equal(steps["w"], 1)
    np.testing.assert_array_equal(judged["w"], 1)


@every_optimizer
def test_what_is_missing_is_named(make, raises):
    optimizer, params = make(), {"w": jnp.ones(2)}
    name = optimizer.update.__qualname__.partition(".")[0]
    with raises(ValueError, f"{name}: update needs params"):
        optimizer.update(params, optimizer.init(params), **extra(optimizer, square, params))
    # optax.chain drops extra arguments for pairs that are not its own
    chained = optax.chain(optax.clip(1.0), optimizer)
    wanted = "value" if "value" in optimizer.update.__kwdefaults__ else "value_fn"
    with raises(
        ValueError,
        f"{name}: update needs {wanted}, which jnn.training hands over; optax.chain and optax's wrappers drop it: "
        "use jnn.optim.chain",
    ):
        chained.update(params, chained.init(params), params, value=jnp.float32(1.0), value_fn=square)


@every_optimizer
def test_a_frozen_part_stays_and_the_other_is_solved(make, key):
    objective, data = digits_like()
    frozen = jnn.training(objective, optim.freeze(make(), "b"))
    end = jnn.fit(frozen, data, key=key, steps=30, eval_data=data)
    assert not np.any(end.train_state.params["dense_0"]["b"])
    judged = optim.eval_params(end.train_state.opt_state, end.train_state.params)
    slope = jax.grad(lambda w: objective.loss({"dense_0": {"w": w, "b": jnp.zeros(3)}}, {}, data)[0])(judged["dense_0"]["w"])
    np.testing.assert_allclose(slope, 0, atol=1e-3)


@every_optimizer
def test_a_run_in_two_parts_is_the_same(make, key):
    objective, data = digits_like()
    training = jnn.training(objective, make())
    whole = jnn.fit(training, data, key=key, steps=10)
    part = jnn.fit(training, data, key=key, steps=4)
    rest = jnn.fit(training, data, key=key, steps=6, start=part.train_state)
    chex.assert_trees_all_close(rest.train_state.params, whole.train_state.params, rtol=1e-5, atol=1e-6)


def test_newton_solves_a_quadratic_in_one_step(x64):
    steps, _, _ = trajectory(optim.newton(), quadratic, jnp.ones(50), 2)
    np.testing.assert_allclose(steps[1], 0, atol=1e-11)


def test_newton_with_damping_is_the_formula(x64):
    x, rate, damping = jnp.asarray([-1.2, 1.0]), 0.7, 3.0
    a, b = np.asarray(x)
    hessian = np.array([[1200 * a**2 - 400 * b + 2, -400 * a], [-400 * a, 200]])
    gradient = np.array([-400 * a * (b - a**2) - 2 * (1 - a), 200 * (b - a**2)])
    steps, _, _ = trajectory(optim.newton(rate, damping), rosenbrock, x, 2)
    np.testing.assert_allclose(steps[1] - x, -rate * np.linalg.solve(hessian + damping * np.eye(2), gradient), rtol=1e-12)
    rates = jnp.asarray([0.1, 0.7])
    lanes = jax.vmap(lambda rate: trajectory(optim.newton(lambda count: rate, damping), rosenbrock, x, 2)[0])(rates)
    np.testing.assert_allclose(lanes[1], steps, rtol=1e-12)


def test_newton_refuses_what_does_not_fit(raises):
    params = jnp.zeros(10_001)
    with raises(ValueError, "newton: 10001 parameters, and a Hessian is made of 10000 at most: use newton_cg"):
        optim.newton().update(params, optim.newton().init(params), params, value_fn=jnp.sum)


def test_newton_cg_goes_as_far_as_scipys_conjugate_gradients(x64):
    x = jnp.asarray(np.random.default_rng(1).normal(size=50))
    gradient = HESSIAN @ np.asarray(x)
    norm = np.linalg.norm(gradient)
    expected, _ = scipy.sparse.linalg.cg(HESSIAN, -gradient, rtol=0, atol=min(0.5, norm**0.5) * norm)
    steps, _, _ = trajectory(optim.newton_cg(), quadratic, x, 2)
    np.testing.assert_allclose(steps[1] - x, expected, rtol=1e-9)
    once, _ = scipy.sparse.linalg.cg(HESSIAN, -gradient, rtol=0, atol=0, maxiter=3)
    small = jax.tree.map(lambda a: 1e-6 * a, x)  # a tight tolerance, cut short by the number of iterations
    steps, _, _ = trajectory(optim.newton_cg(iterations=3), quadratic, small, 2)
    np.testing.assert_allclose(steps[1] - small, 1e-6 * once, rtol=1e-6)


def test_newton_cg_counts_its_products_and_its_values(x64):
    x = jnp.asarray(np.random.default_rng(1).normal(size=50))
    gradient, made = HESSIAN @ np.asarray(x), []
    norm = np.linalg.norm(gradient)
    scipy.sparse.linalg.cg(HESSIAN, -gradient, rtol=0, atol=min(0.5, norm**0.5) * norm, callback=made.append)
    optimizer = optim.newton_cg()
    state = optimizer.init(x)
    for _ in range(2):
        _, state = optimizer.update(jnp.asarray(gradient), state, x, value=quadratic(x), value_fn=quadratic)
    assert jax.tree.map(int, tuple(state)) == (2, 2 * len(made), 2)
    # from 1 the step of Newton is -1: 8 times it is too far, and so is 4 times; twice it leads to -1, where x^2 is as high
    square, one = (lambda x: jnp.vdot(x, x)), jnp.ones(1)
    _, state = optim.newton_cg(8.0).update(2 * one, optimizer.init(one), one, value=square(one), value_fn=square)
    assert jax.tree.map(int, tuple(state)) == (1, 1, 4)


@pytest.mark.parametrize("name", ["rosenbrock", "rosenbrock-10", "helical-valley", "trigonometric"])
def test_newton_cg_converges_in_no_more_steps_than_scipys(name, x64):
    loss, start = FUNCTIONS[name]
    slope, product = jax.grad(loss), lambda x, v: jax.jvp(jax.grad(loss), (x,), (v,))[1]
    theirs = scipy.optimize.minimize(
        jax.jit(loss), np.asarray(start), jac=jax.jit(slope), hessp=jax.jit(product), method="Newton-CG", options={"xtol": 1e-8}
    )
    steps, values, _ = trajectory(optim.newton_cg(), loss, jnp.asarray(start), theirs.nit)
    assert np.max(np.abs(slope(steps[-1]))) < 1e-5
    np.testing.assert_allclose(values[-1], theirs.fun, rtol=1e-6, atol=1e-9)
    assert np.all(np.diff(values) <= 0)


def test_newton_cg_leaves_a_saddle_by_steepest_descent_and_halves_a_step_that_is_too_long(x64):
    def saddle(x):
        return x[0] ** 4 / 4 - x[0] ** 2 / 2 + x[1] ** 2

    x = jnp.asarray([0.1, 0.0])
    steps, _, _ = trajectory(optim.newton_cg(), saddle, x, 30)
    np.testing.assert_allclose(steps[1], x - jax.grad(saddle)(x), rtol=1e-12)
    np.testing.assert_allclose(steps[-1], [1, 0], atol=1e-6)
    # -g = 99 leads to 10^8: halved to the first of 99 / 2^k with f <= f0 - 1e-4 t 99^2
    g = 99.0
    ridge = lambda x: jnp.sum(g * (1 - x) - x**2 + jnp.where(x > 1, (x - 1) ** 4, jnp.zeros_like(x)))
    f = lambda t: float(ridge(jnp.asarray([t * g])))
    expected = next(t for t in 0.5 ** np.arange(30) if f(t) <= f(0) - 1e-4 * t * g**2)
    assert expected < 1
    steps, _, _ = trajectory(optim.newton_cg(), ridge, jnp.asarray([0.0]), 2)
    np.testing.assert_allclose(steps[1], [expected * g], rtol=1e-12)


def largest_array(jaxpr):
    """of a program and all those in it"""
    sizes = [1]
    for equation in jaxpr.eqns:
        sizes += [variable.aval.size for variable in equation.outvars if hasattr(variable.aval, "size")]
        sizes += [largest_array(inner) for inner in jaxprs_in_params(equation.params)]
    return max(sizes)


def test_newton_cg_and_lbfgs_of_many_parameters_make_no_matrix_of_them():
    n = 20_000
    weights = jnp.linspace(1.0, 100.0, n)
    loss = lambda x: 0.5 * jnp.sum(weights * x**2) / n + 0.25 * jnp.sum(x**4) / n
    for optimizer, limit in ((optim.newton_cg(), n), (optim.lbfgs(), 10 * n)):
        jaxpr = jax.make_jaxpr(lambda x, optimizer=optimizer: trajectory(optimizer, loss, x, 40))(jnp.ones(n)).jaxpr
        assert largest_array(jaxpr) == max(limit, 40 * n)  # 40 steps are recorded
        _, values, _ = trajectory(optimizer, loss, jnp.ones(n), 40)
        assert values[-1] < 1e-6 * values[0]
