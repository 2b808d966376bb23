"""Every task that jnn brings is a row of TASKS."""

import os
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

import jnn
from jnn.comparison import plans, problems, studies, suite
from jnn.comparison.errors import CandidateError, InputError
from jnn.comparison.suite import DEFAULT_TASKS, SUITE, TASKS, find_task
from jnn.comparison.tasks import NUMBERS, Examples, Task, bound, count_pool

from tiny import blobs, tiny_task

DOCS = Path(__file__).parents[2] / "docs" / "reference"
OWN = str(Path(__file__).parent / "own_tasks.py")
PROBLEMS = ("rosenbrock", "quadratic", "noisy-quadratic")
WITH_FILES = [name for name in TASKS if name not in (*DEFAULT_TASKS, *PROBLEMS)]
needs_files = pytest.mark.skipif("JNN_DATA_DIR" not in os.environ, reason="needs files: set JNN_DATA_DIR to their folder")


def adam_on(task, count=4, trials=8):
    plan = plans.make_plan({"adam": jnn.optim.adam, "sgd": jnn.optim.sgd}, [task], "adam", {}, trials, count, 0.01, 0)
    setup = studies.Setup(plan.tasks[0], plan)
    return studies.run_cell(plan, setup, plan.entrants[0]), setup


def assert_reached(name, cell):
    score, floor = TASKS[name].floor
    mean = cell.final["test"][score].mean()
    assert mean <= floor if score == "loss" else mean >= floor, (name, score, mean)


@pytest.mark.parametrize("name", [*PROBLEMS, *(pytest.param(name, marks=pytest.mark.slow) for name in DEFAULT_TASKS)])
def test_tuned_adam_reaches_the_floor_of_what_is_bundled(name):
    assert_reached(name, adam_on(TASKS[name], 16)[0])


@needs_files
@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_FILES)
def test_tuned_adam_reaches_the_floor_of_what_is_fetched(name):
    assert_reached(name, adam_on(TASKS[name])[0])


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_named_is_its_own_function_and_has_evaluations_that_divide_its_steps(name):
    task = TASKS[name]
    assert task.name == name
    assert task.steps % task.points == 0
    assert task.make is getattr(suite, name.replace("-", "_"))
    assert task.floor[0] in ("loss", "accuracy")


def made_up(name) -> Examples:
    """Examples in the form of a task's own, of random numbers: what can be said of a task without its files."""
    random = np.random.default_rng(0)
    n = 4 * TASKS[name].validation + 2 * TASKS[name].test
    images = random.integers(0, 256, (n, 28, 28, 1), np.uint8)
    labels = random.integers(0, 10, n).astype(np.int32)
    tokens = random.integers(0, 65, (n, 33)).astype(np.int32)
    papers = np.arange(n, dtype=np.int32)
    series = random.normal(size=(n, 13)).astype(np.float32)
    graph = jnn.Graph(random.random((n, 20), np.float32), papers, np.roll(papers, 1))
    return {
        "fashion-autoencoder": Examples(images),
        "shakespeare-lstm": Examples((tokens[:, :-1], tokens[:, 1:])),
        "shakespeare-gpt": Examples((tokens[:, :-1], tokens[:, 1:])),
        "cora-gcn": Examples((papers, labels % 7), shared=graph),
        "sunspots-ar": Examples((series[:, :-1], series[:, -1:])),
    }.get(name, Examples((images, labels)))


@pytest.mark.parametrize("name", WITH_FILES)
def test_tasks_with_files_go_through_the_comparison(name):
    task, examples = TASKS[name], made_up(name)
    plan = plans.make_plan(
        {"adam": jnn.optim.adam, "sgd": jnn.optim.sgd}, [task._replace(load=lambda: examples)], "adam", {}, 1, 2, 0.01, 0
    )
    # traced and not run: compiling a run takes longer than all other tests of this file
    start = jax.eval_shape(lambda: studies._start(task, jax.random.key(0), 0, studies.FINAL, examples))
    run = jax.eval_shape(lambda start: studies._run(task, plan.entrants[0], {"learning_rate": 0.1}, start, examples), start)
    assert run["validation"].shape == (task.points,)
    assert run["final"].keys() == {"validation", "test"}


@pytest.mark.parametrize("name", [name for name in WITH_FILES if name != "sunspots-ar"])
def test_the_loss_of_fresh_parameters_is_that_of_a_guess(name, key):
    examples = made_up(name)
    objective = bound(TASKS[name], examples)
    batch = jax.tree.map(lambda a: jnp.asarray(a[:32]), examples.pool)
    value = jax.jit(lambda batch: objective.loss(*objective.init(key, batch), batch)[0])(batch)
    # uniform probabilities, or grey 0.5 for uniform pixels; fresh outputs vary about these and cost something more
    guess = {
        "cora-gcn": np.log(7),
        "fashion-autoencoder": 1 / 12,
        "shakespeare-lstm": np.log(65),
        "shakespeare-gpt": np.log(65),
    }
    assert 0.98 < value / guess.get(name, np.log(10)) < 1.5


@needs_files
@pytest.mark.parametrize("name", [name for name in WITH_FILES if not name.startswith("fashion")])
def test_real_examples_have_the_form_that_the_others_are_made_up_in(name):
    ours, real = made_up(name), TASKS[name].load()
    for a, b in zip(jax.tree.leaves(ours.pool), jax.tree.leaves(real.pool), strict=True):
        assert (a.shape[1:], a.dtype) == (b.shape[1:], b.dtype)
    assert jax.tree.structure(ours) == jax.tree.structure(real)


@pytest.mark.parametrize("name", TASKS)
def test_the_full_size_is_a_variation_that_has_an_initialisation(name):
    task = find_task(name, "full")
    assert task.steps > TASKS[name].steps
    assert task.steps % task.points == 0
    assert task.floor is None

    def parameters(task):
        examples = made_up(name) if name in WITH_FILES else task.load()
        batch = jax.tree.map(lambda a: a[:2], examples.pool)
        params, _ = jax.eval_shape(bound(task, examples).init, jax.random.key(0), batch)
        return sum(leaf.size for leaf in jax.tree.leaves(params))

    assert parameters(task) > parameters(TASKS[name]) or name == "digits-linear"


def test_the_suite_is_eight_tasks_of_real_data():
    assert len(set(SUITE)) == 8
    assert set(SUITE) <= set(WITH_FILES)


def test_the_autoencoder_rebuilds_its_input():
    inputs, targets = TASKS["digits-autoencoder"].load().pool
    np.testing.assert_array_equal(inputs.reshape(1797, 64), targets)


# problems whose loss is known


def loss_of(task, params, state=None, **options):
    return task.objective.loss(params, state or {}, (), **options)[0]


@pytest.mark.parametrize("dimensions", [2, 7])
def test_rosenbrock_is_scipys_over_1000(dimensions, key):
    task = problems.rosenbrock(dimensions)
    params, _ = task.objective.init(key, ())
    value, grads = jax.value_and_grad(lambda p: loss_of(task, p))(params)
    x = np.asarray(params["x"], np.float64)
    np.testing.assert_allclose(value, scipy.optimize.rosen(x) / 1000, rtol=1e-5)
    np.testing.assert_allclose(grads["x"], scipy.optimize.rosen_der(x) / 1000, rtol=1e-4)
    np.testing.assert_allclose(x, np.resize([-1.2, 1.0], dimensions), atol=0.5)
    assert loss_of(task, {"x": jnp.ones(dimensions)}) == 0


@pytest.mark.parametrize("condition", [1.0, 1e2, 1e4])
def test_the_hessian_of_the_quadratic_has_the_condition_number(condition, key, x64):
    task = problems.quadratic(condition=condition, dimensions=6)
    _, state = task.objective.init(key, ())
    state = jax.tree.map(lambda a: a.astype(jnp.float64), state)
    hessian = jax.hessian(lambda x: loss_of(task, {"x": x}, state))(jnp.ones(6, jnp.float64))
    eigenvalues = np.linalg.eigvalsh(hessian)
    np.testing.assert_allclose(eigenvalues, condition ** -np.linspace(1, 0, 6), rtol=1e-2 if condition > 1e3 else 1e-4)
    assert condition == 1 or np.abs(hessian - np.diag(np.diag(hessian))).max() > 0.05


def test_noise_of_the_quadratic_has_the_published_mean_and_covariance(key):
    task = problems.noisy_quadratic(batch_size=4, dimensions=3)
    x = {"x": jnp.array([1.0, -2.0, 3.0])}
    keys = jax.random.split(key, 20_000)
    grad = jax.grad(lambda p, k: loss_of(task, p, key=k, train=True))
    grads = np.asarray(jax.jit(jax.vmap(lambda k: grad(x, k)["x"]))(keys))
    h = 1 / np.arange(1, 4)
    # five standard errors of a mean, and of an entry of a covariance, of 20,000
    np.testing.assert_allclose(grads.mean(axis=0), h * [1, -2, 3], atol=5 * np.sqrt(1 / 4 / 20_000))
    np.testing.assert_allclose(np.cov(grads.T), np.diag(h / 4), atol=5 * np.sqrt(2 / 20_000) / 4)
    exact = loss_of(task, x)
    np.testing.assert_allclose(exact, np.sum(h * np.array([1, 4, 9])) / 2, rtol=1e-6)
    with pytest.raises(ValueError, match="needs a key"):
        loss_of(task, x, train=True)


@pytest.mark.parametrize("name", PROBLEMS)
def test_studies_of_a_problem_start_elsewhere_and_optimizers_at_the_same_place(name):
    task = TASKS[name]
    plan = plans.make_plan({"adam": jnn.optim.adam, "sgd": optax.sgd}, [task], "adam", {}, 1, 2, 0.01, 0)
    setup = studies.Setup(task, plan)
    one, two = np.asarray(setup.starts((0, 1), studies.FINAL).params["x"])
    assert not np.allclose(one, two)
    again = studies.Setup(task, plan).starts((0, 1), studies.FINAL)
    np.testing.assert_array_equal(again.params["x"], [one, two])
    np.testing.assert_array_equal(again.initial["validation"]["loss"], again.initial["test"]["loss"])


# what a study draws


def test_a_full_batch_is_all_that_is_not_held_out_and_a_step_of_it_is_optaxs():
    task = tiny_task(batch_size=None, steps=3, points=1, schedule=lambda steps: lambda step: jnp.float32(1))
    plan = plans.make_plan(
        {"adam": jnn.optim.adam, "sgd": optax.sgd}, [task], "adam", {"sgd": {"learning_rate": 0.1}}, 1, 2, 0.01, 0
    )
    setup = studies.Setup(task, plan)
    starts = setup.starts((0, 1), studies.FINAL)
    for order, validation, test in zip(starts.order, starts.validation, starts.test, strict=True):
        assert sorted(np.concatenate([order, validation, test]).tolist()) == list(range(120))
    cell = studies.run_cell(plan, setup, plan.entrants[1])
    inputs, labels = blobs().pool
    params = jax.tree.map(lambda a: a[0], starts.params)
    for _ in range(3):
        batch = inputs[starts.order[0]], labels[starts.order[0]]
        grads = jax.grad(lambda p, batch=batch: task.objective.loss(p, {}, batch, train=True)[0])(params)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
    expected = task.objective.loss(params, {}, (inputs[starts.test[0]], labels[starts.test[0]]))[0]
    np.testing.assert_allclose(cell.final["test"]["loss"][0], expected, rtol=1e-5)


def test_a_graph_is_shared_and_papers_of_other_parts_do_not_count(key):
    made = made_up("cora-gcn")
    task = TASKS["cora-gcn"]
    objective = bound(task, made)
    papers, labels = jax.tree.map(lambda a: jnp.asarray(a[:9]), made.pool)
    params, state = objective.init(key, (papers, labels))
    value, aux = objective.loss(params, state, (papers, labels))
    # two convolutions with the normalised adjacency matrix, in numpy
    n = made.shared.nodes.shape[0]
    adjacency = np.eye(n)
    adjacency[made.shared.receivers, made.shared.senders] += 1
    root = np.sqrt(adjacency.sum(axis=1))
    adjacency = adjacency / root / root[:, None]
    one, two = (jax.tree.map(np.asarray, params[name]) for name in ("conv_1", "conv_2"))
    hidden = np.maximum(adjacency @ made.shared.nodes @ one["w"] + one["b"], 0)
    logits = (adjacency @ hidden @ two["w"] + two["b"])[papers]
    expected = optax.softmax_cross_entropy_with_integer_labels(jnp.float32(logits), labels)
    np.testing.assert_allclose(value, expected.mean(), rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["accuracy"], np.mean(logits.argmax(-1) == labels), rtol=1e-6)


def test_sunspots_are_windows_of_the_years_before(monkeypatch):
    series = np.arange(30, dtype=np.float32)
    monkeypatch.setattr(suite.data, "sunspots", lambda: (np.arange(1700, 1730), series))
    inputs, targets = suite.sunspots_ar(lags=4).load().pool
    assert (inputs.shape, targets.shape) == ((26, 4), (26, 1))
    np.testing.assert_allclose(100 * inputs[3], [3, 4, 5, 6], rtol=1e-6)
    np.testing.assert_allclose(100 * targets[3], [7], rtol=1e-6)


def test_characters_are_predicted_from_those_before(monkeypatch):
    tokens = np.arange(65, dtype=np.int32)
    monkeypatch.setattr(suite.data, "tiny_shakespeare", lambda: (tokens, ""))
    inputs, targets = suite.shakespeare_lstm(length=10).load().pool
    assert inputs.shape == targets.shape == (5, 10)
    np.testing.assert_array_equal(targets, inputs + 1)


# variations


def test_a_variation_replaces_numbers_and_keeps_the_rest():
    task = TASKS["digits-mlp"].vary(steps=7, batch_size=16)
    assert (task.steps, task.batch_size, task.points, task.name, task.floor) == (7, 16, 7, "digits-mlp", None)
    assert task.objective is TASKS["digits-mlp"].objective
    wide = task.vary(width=5)
    assert (wide.steps, wide.batch_size, wide.validation) == (7, 16, 300)
    params, _ = wide.objective.init(jax.random.key(0), wide.load().pool)
    assert params["serial_1"]["dense"]["w"].shape == (64, 5)
    both = wide.vary(label_noise=0.5, steps=9)
    assert both.steps == 9
    assert "64-5-10" in both.about
    assert "50 % of the training labels random" in both.about
    assert both.vary(width=5).about == both.about


def test_the_batch_size_of_the_noisy_quadratic_is_that_of_its_noise(key):
    one, many = (TASKS["noisy-quadratic"].vary(batch_size=n) for n in (1, 100))
    assert (one.batch_size, many.batch_size) == (1, 100)
    x = {"x": jnp.zeros(100)}
    noise = [jax.grad(lambda p, task=task: loss_of(task, p, key=key, train=True))(x)["x"] for task in (one, many)]
    np.testing.assert_allclose(noise[0], 10 * noise[1], rtol=1e-5)


def test_label_noise_replaces_its_share_for_training_only():
    clean, noisy = TASKS["digits-linear"], TASKS["digits-linear"].vary(label_noise=0.4)
    images, labels = clean.load().pool
    same_images, same_labels, replaced = noisy.load().pool
    np.testing.assert_array_equal(images, same_images)
    np.testing.assert_array_equal(labels, same_labels)
    assert replaced.dtype == labels.dtype
    # a share of 0.4 is drawn anew, of which a tenth is what it was; 1797 labels, four standard errors
    assert abs(np.mean(replaced != labels) - 0.4 * 0.9) < 4 * np.sqrt(0.36 * 0.64 / 1797)
    np.testing.assert_array_equal(replaced, noisy.load().pool[2])
    params, state = noisy.objective.init(jax.random.key(0), noisy.load().pool)
    params = jax.tree.map(lambda p: p + 0.1, params)
    params["dense_1"]["w"] = jax.random.normal(jax.random.key(1), (64, 10))
    for train, target in ((False, labels), (True, replaced)):
        value, aux = noisy.objective.loss(params, state, (images, labels, replaced), train=train)
        expected = clean.objective.loss(params, state, (images, target), train=train)
        np.testing.assert_allclose(value, expected[0], rtol=1e-6)
        np.testing.assert_allclose(aux.metrics["accuracy"], expected[1].metrics["accuracy"], rtol=1e-6)


def test_training_on_random_labels_alone_learns_nothing():
    task = TASKS["digits-linear"].vary(label_noise=1.0, steps=100)
    cell, _ = adam_on(task, count=2, trials=3)
    assert cell.final["test"]["accuracy"].mean() < 0.3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widht": 3}, "digits-mlp has no setting 'widht', did you mean width?; it has steps, batch_size, validation, test, "),
        ({"steps": 0}, "digits-mlp with steps=0: steps must be at least 1, got 0"),
        ({"steps": 1.5}, "digits-mlp with steps=1.5: steps must be a whole number, got 1.5"),
        ({"width": 0}, "digits-mlp with width=0: dense: features must be at least 1, got 0"),
        ({"label_noise": 1.5}, "digits-mlp with label_noise=1.5: label_noise is a share and lies in [0, 1], got 1.5"),
        ({"label_noise": "a"}, "digits-mlp with label_noise=a: label_noise is a share and lies in [0, 1], got a"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(InputError) as error:
        TASKS["digits-mlp"].vary(**settings)
    assert str(error.value).startswith(message)


def test_a_task_without_a_function_has_its_numbers_only():
    assert tiny_task().vary(steps=10, validation=20).steps == 10
    with pytest.raises(InputError, match=r"^tiny has no setting 'width'; it has steps, batch_size, validation, test$"):
        tiny_task().vary(width=3)
    assert set(NUMBERS) <= set(Task._fields)


def test_a_problem_without_examples_has_no_batch_to_vary():
    # else a map over batch sizes would show the same runs over and over
    with pytest.raises(InputError, match=r"^rosenbrock has no setting 'batch_size'; it has steps, dimensions$"):
        TASKS["rosenbrock"].vary(batch_size=64)


# tasks of the user


def test_a_task_of_ones_own_is_found_in_its_file_and_runs(tmp_path):
    (code,) = re.findall(r"^```python\n(.*?)^```", (DOCS / "comparison.md").read_text(), re.DOTALL | re.MULTILINE)
    (tmp_path / "mine.py").write_text(code)
    sine, bowl = find_task(f"{tmp_path}/mine.py:sine").vary(width=4, steps=100), f"{OWN}:narrow"
    assert count_pool(find_task(bowl), find_task(bowl).load()) == 0
    comparison = jnn.compare(
        {"adam": jnn.optim.adam, "sgd": jnn.optim.sgd}, tasks=[sine, bowl], reference="adam", trials=2, studies=3
    )
    assert sorted(comparison.verdicts["task"]) == ["bowl", "sine"]
    assert np.isfinite(comparison.verdicts["difference"]).all()
    for task in ("bowl", "sine"):
        curves = comparison.curves[task, "adam"]
        assert curves["validation"].shape == (3, 20)
        assert (curves["validation"][:, -1] < curves["initial"] / 2).all()


def test_a_function_of_ones_own_has_sizes_and_settings():
    assert find_task(f"{OWN}:bowl", "full").steps == 400
    assert find_task(f"{OWN}:bowl").vary(width=5, steps=3).about == "a sum of 5 squares"
    assert find_task(f"{OWN}:bowl", "full").vary(width=5).steps == 400
    assert find_task(f"{OWN}:bowl", "full").vary(width=5).vary(steps=3).steps == 3


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("digits-lineal", InputError, "there is no task 'digits-lineal', did you mean digits-linear"),
        (f"{OWN}:narow", InputError, f"{OWN} has no task 'narow', did you mean narrow"),
        (f"{OWN}:not_callable", InputError, f"{OWN} has no task 'not_callable'"),
        (f"{OWN}:no_task", InputError, f"{OWN}:no_task returned int, not a jnn.comparison.tasks.Task"),
        (f"{OWN}:broken", CandidateError, f"{OWN}:broken raises KeyError: 'mine'"),
        ("nowhere.py:bowl", InputError, "there is no file nowhere.py"),
        ("no_such_module:bowl", InputError, "there is no module 'no_such_module'"),
    ],
)
def test_what_is_no_task_is_refused(spec, error, message):
    with pytest.raises(error) as raised:
        find_task(spec)
    assert type(raised.value) is error
    assert str(raised.value).startswith(message)


def test_other_sizes_are_refused():
    with pytest.raises(InputError, match=r"^a size is 'quick' or 'full', got 'huge'$"):
        find_task("digits-mlp", "huge")
