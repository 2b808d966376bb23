"""jnn.diagnose: each check against a formula, or against damage that was planted."""

import io
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rich.console

import jnn
from jnn.diagnoses import Diagnosis, Finding, curves, examples, networks

RNG = np.random.default_rng(0)
CENTRES = np.eye(3, 4, dtype=np.float32) * 3


def blobs(n, seed=0):
    """Three clouds of points that overlap hardly."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(n) % 3
    return (CENTRES[labels] + 0.5 * rng.normal(size=(n, 4))).astype(np.float32), labels.astype(np.int32)


def supervised(*layers, loss=jnn.losses.softmax_cross_entropy, penalty=None, **named):
    return jnn.supervised(jnn.serial(*layers, **named), loss, penalty=penalty)


def begun(objective, batch, key):
    return (*objective.init(key, batch), batch)


def names(diagnosis, ok):
    return {finding.name for finding in diagnosis.findings if finding.ok is ok}


@pytest.fixture(scope="module")
def healthy():
    objective = supervised(body=jnn.models.mlp([16], 3), penalty=jnn.regularizers.l2(1e-3))
    optimizer = jnn.optim.adam(1e-2)
    return (
        objective,
        optimizer,
        lambda data, **options: jnn.diagnose(objective, data, key=jax.random.key(0), optimizer=optimizer, steps=80, **options),
    )


def test_a_healthy_network_has_no_problems_and_every_check_is_made(healthy):
    diagnosis = healthy[2](blobs(120), validation=blobs(60, 1))
    assert diagnosis.problems == ()
    assert names(diagnosis, None) == set()
    assert len(diagnosis.findings) == 15
    assert all(math.isfinite(finding.measured) and not finding.advice for finding in diagnosis.findings)


def test_planted_damage_to_the_data_is_found_and_the_examples_are_named(healthy):
    (points, labels), (others, theirs) = blobs(120), blobs(60, 1)
    others = np.concatenate([points[:6], others[6:]])
    wrong = RNG.choice(120, 24, replace=False)
    labels[wrong] = (labels[wrong] + 1) % 3
    found = {finding.name: finding for finding in healthy[2]((points, labels), validation=(others, theirs)).problems}
    assert found["shared examples"].where == tuple(range(6))
    assert found["shared examples"].measured == pytest.approx(0.1)
    named = set(found["labels"].where)
    assert len(named & set(wrong)) >= 22
    assert len(named - set(wrong)) <= 4


def test_a_learning_rate_is_found_too_low_and_its_remedy_named(healthy):
    objective, _, _ = healthy
    low = jnn.diagnose(objective, blobs(120), key=jax.random.key(0), optimizer=jnn.optim.adam(1e-5), steps=80)
    found = {finding.name: finding for finding in low.problems}
    assert set(found) <= {"learning rate", "loss curve", "update ratio"}
    assert found["learning rate"].advice.startswith("too low: with 100 times it")


def test_what_cannot_be_checked_is_said_so_with_the_reason():
    def init(key, batch):
        return {"w": jnp.zeros(4)}, {}

    def loss(params, state, batch, *, key=None, train=False):
        return jnp.mean(jnp.square(batch["x"] @ params["w"] - batch["y"])), jnn.Aux(state, {})

    points, _ = blobs(40)
    data = {"x": points, "y": points @ np.ones(4, np.float32)}
    diagnosis = jnn.diagnose(jnn.Objective(init, loss), data, key=jax.random.key(0), optimizer=jnn.optim.sgd(1e-2), steps=40)
    skipped = {finding.name: finding.advice for finding in diagnosis.findings if finding.ok is None}
    assert skipped["class balance"] == "the targets are no class numbers (n,)"
    assert skipped["shared examples"] == "no validation data were given"
    assert skipped["penalty"] == skipped["separate examples"] == "data are not (inputs, targets)"
    assert skipped["gradients by layer"] == "the model has fewer than two weights"
    assert {"update ratio", "dead units", "labels", "validation gap"} <= set(skipped)
    assert names(diagnosis, True) >= {"loss at init", "tiny set", "learning rate", "duplicates", "inputs"}


def test_bad_input_is_refused(healthy, raises):
    points, labels = blobs(40)
    with raises(ValueError, "diagnose: data need one leading axis of examples, got shapes (40, 4), (39,)"):
        healthy[2]((points, labels[1:]))
    with raises(ValueError, "diagnose: expected at least 10 examples, got 9"):
        healthy[2]((points[:9], labels[:9]))


FINDINGS = Diagnosis(
    (
        Finding("one", True, 0.5, "<1"),
        Finding("two", False, 2.0, "at most 1 & not more", "do <this>", ("dense_0/w",)),
        Finding("three", None, math.nan, "something", "there is none"),
    )
)


def test_a_diagnosis_prints_itself_as_text_by_rich_and_as_html():
    assert str(FINDINGS).splitlines() == [
        "check  verdict      measured  expected",
        "-----  -----------  --------  --------------------",
        "one    ok                0.5  <1",
        "two    PROBLEM             2  at most 1 & not more",
        "three  not checked            something",
        "-----  -----------  --------  --------------------",
        "1 of 3 checks found a problem, 1 could not be made",
        "two: do <this>",
        "three: there is none",
    ]
    assert [finding.name for finding in FINDINGS.problems] == ["two"]
    console = rich.console.Console(file=io.StringIO(), width=100)
    console.print(FINDINGS)
    shown = console.file.getvalue()
    assert all(text in shown for text in ("PROBLEM", "at most 1 & not more", "two: do <this>"))
    html = FINDINGS._repr_html_()
    assert "<td" in html
    assert "two: do &lt;this&gt;" in html


def test_balance_counts_classes_and_names_the_rare_ones():
    even = examples.balance(np.array([0, 1, 2, 2]))
    assert (even.ok, even.measured, even.where) == (True, 2.0, ())
    rare = examples.balance(np.repeat([0, 1, 2], [55, 5, 40]))
    assert (rare.ok, rare.measured, rare.where) == (False, 11.0, (1,))
    assert examples.balance(np.array([0, 0, 2])).measured == math.inf
    assert examples.class_labels(np.ones(3, np.float32)) is None
    assert examples.class_labels(np.ones((3, 2), np.int32)) is None


def test_copies_are_found_in_any_dtype_and_pytree():
    images = RNG.integers(0, 9, (50, 3, 3), dtype=np.uint8)
    copied = examples.duplicates({"image": np.concatenate([images, images[4:7]]), "size": np.ones(53, np.float32)})
    assert (copied.ok, copied.where) == (False, (50, 51, 52))
    differing = {"image": np.concatenate([images, images[4:7]]), "size": np.arange(53, dtype=np.float32)}
    assert examples.duplicates(differing).measured == 0
    found = examples.shared(images, np.concatenate([images[:2] + 10, images[7:8]]))
    assert (found.ok, found.where) == (False, (2,))


def by_hand(p, labels):
    """Confident learning, word by word."""
    found = []
    for i in range(len(p)):
        passed = [c for c in range(p.shape[1]) if (labels == c).any() and p[i, c] >= p[labels == c][:, c].mean()]
        if passed and max(passed, key=lambda c: p[i, c]) != labels[i]:
            found.append(i)
    return sorted(found, key=lambda i: p[i, labels[i]] - max(p[i, c] for c in range(p.shape[1])))


def test_suspect_labels_are_those_of_confident_learning():
    p = RNG.dirichlet(np.full(4, 0.3), 200)
    labels = np.array([RNG.choice(4, p=row) for row in p])
    assert 0 < len(by_hand(p, labels)) < 100
    # a confident class is not always the most probable one: as sets
    assert set(examples.suspects(p, labels)) == set(by_hand(p, labels))
    certain = np.eye(3)[[0, 1, 2, 0, 1, 2]]
    assert examples.suspects(certain, np.array([0, 1, 2, 0, 1, 1])).tolist() == [5]


def test_probabilities_are_cooled_until_the_labels_are_likely():
    p = RNG.dirichlet(np.full(4, 0.5), 3000)
    labels = np.array([RNG.choice(4, p=row) for row in p])
    for factor in (0.5, 1.0, 4.0):
        np.testing.assert_allclose(examples.probabilities(-factor * np.log(p), labels), p, atol=0.06)


STEPS = np.arange(200)
NOISE = 0.02 * np.random.default_rng(1).normal(size=200)
CURVES = {
    "healthy": 2.3 * np.exp(-STEPS / 30) + 0.1,
    "flat": 2.3 - 1e-4 * STEPS,
    "falls like a line": 2.3 - 0.004 * STEPS,
    "plateau": 1.6 + 0.7 * np.exp(-STEPS / 20),
    "flat, then sudden": 0.3 + 2 / (1 + np.exp((STEPS - 90) / 6)),
    "leaps": np.where((STEPS > 0) & (STEPS < 20), 500.0, 2.3),
    "diverges": 2.3 * np.exp(STEPS / 30),
}


@pytest.mark.parametrize("name", CURVES)
def test_shapes_of_curves_are_told_apart_and_have_advice(name):
    assert curves.verdict(CURVES[name] + NOISE) == name
    assert curves.verdict(7 * CURVES[name]) == name  # whatever the unit of the loss
    assert (name in curves.ADVICE) != (name == "healthy")


def test_a_loss_that_is_not_finite_diverges():
    assert curves.verdict(np.where(STEPS > 150, np.nan, 1.0)) == "diverges"
    assert curves.levels(np.array([[1.0, np.nan], [1.0, 3.0]])).tolist() == [np.inf, 3.0]


def test_a_learning_rate_is_judged_by_what_others_reach():
    def judged(*ends):
        losses = np.concatenate([np.full((5, 20), 2.0), np.array(ends)[:, None].repeat(80, 1)], axis=1)
        return curves.learning_rate(losses)

    right = judged(1.9, 1.5, 0.4, 0.2, np.nan)
    assert right.ok
    assert right.measured == pytest.approx(1.6 / 1.8)
    assert judged(1.99, 1.99, 1.9, 1.5, 0.2).advice.startswith("too low: with 100 times it")
    assert judged(1.5, 0.2, np.nan, np.nan, np.nan).advice.startswith("too high: with 0.1 times it")
    assert judged(2.0, 2.0, 2.0, 2.0, np.nan).ok is None
    assert curves.learning_rate(np.full((5, 20), np.nan)).ok is None


def test_updates_are_those_of_the_optimizer_times_the_scale(key):
    """sgd on loss = sum of w: every update is -lr * scale, so the loss falls by a known amount, whatever the batch."""

    def init(key, batch):
        return {"w": jnp.ones((2, 2))}, {}

    objective = jnn.Objective(init, lambda p, s, batch, *, key=None, train=False: (jnp.sum(p["w"]), jnn.Aux(s, {})))
    order = np.zeros((3, 5, 2), np.int32)
    start = objective.init(key, None)
    found = curves.runs(objective, jnn.optim.sgd(0.1), start, key, np.ones((4, 1)), (0.1, 1.0, 2.0), order)
    for losses, ratios, scale in zip(found.losses, found.ratios["w"], (0.1, 1.0, 2.0), strict=True):
        np.testing.assert_allclose(losses, 4 - 4 * 0.1 * scale * np.arange(5), rtol=1e-5)
        w = 1 - 0.1 * scale * np.arange(5)
        np.testing.assert_allclose(ratios, 0.1 * scale / np.abs(w), rtol=1e-4)


def test_loss_at_init_is_measured_against_that_of_equal_scores(key):
    points, labels = blobs(60)
    for loss, level in ((jnn.losses.softmax_cross_entropy, math.log(3)), (jnn.losses.hinge, 2.0)):
        for size, ok in ((0.01, True), (30.0, False)):
            objective = supervised(jnn.dense(3, w_init=jnn.initializers.normal(size)), loss=loss)
            found = networks.start(objective, *begun(objective, (points, labels), key))
            assert float(found["zero"]) == pytest.approx(level, rel=1e-5)
            assert networks.loss_at_start(found, 3, None).ok is ok
    assert networks.loss_at_start({"loss": 1.0, "zero": jnp.nan}, 3, None).ok
    assert networks.loss_at_start({"loss": 1.0, "zero": jnp.nan}, None, None).ok is None
    assert not networks.loss_at_start({"loss": 1.0, "zero": 1.0}, None, 5.0).ok


def test_gradients_by_layer_are_their_norms(key):
    points, labels = blobs(30)
    objective = supervised(jnn.dense(5), jnp.tanh, jnn.dense(3))
    params, state, batch = begun(objective, (points, labels), key)
    found = networks.start(objective, params, state, batch)["gradients"]
    grads = jax.grad(lambda p: objective.loss(p, state, batch)[0])(params)
    assert found == {f"dense_{i}/w": pytest.approx(np.linalg.norm(grads[f"dense_{i}"]["w"])) for i in (0, 2)}
    zero = networks.gradients_by_layer({"gradients": {"a": 1.0, "b": 0.0}})
    assert (zero.measured, zero.where) == (math.inf, ("b",))
    assert networks.gradients_by_layer({"gradients": {"a": math.nan, "b": 1.0}}).where == ("a",)
    vanishing = networks.gradients_by_layer({"gradients": {"a": 1e-4, "b": 1.0}})
    assert (vanishing.ok, vanishing.where) == (False, ("a", "b"))


@pytest.mark.parametrize("strength", [0.0, 0.01, 50.0, -0.01])
def test_the_penalty_is_seen_beside_dropout(strength, key):
    batch = blobs(8)
    layers = jnn.dense(5), jnn.dropout(0.5), jnn.dense(3)
    objective = supervised(*layers, penalty=jnn.regularizers.l2(strength) if strength else None)
    params, state, _ = begun(objective, batch, key)
    reason, value, slope = networks.unweighted(objective, params, state, key, batch)
    squares = sum(float(jnp.sum(params[name]["w"] ** 2)) for name in ("dense_0", "dense_2"))
    assert reason is None
    assert value == pytest.approx(strength * squares, rel=1e-5)
    finding = networks.penalty_rises(reason, value, slope, 1.1)
    assert finding.ok is {0.0: None, 0.01: True, 50.0: False, -0.01: False}[strength]
    assert ("sign" in finding.advice) == (strength < 0)


def test_influences_are_gradients_between_examples(key):
    """loss i = (w (x_i - mean x) - y_i)^2, whose derivative by x_j is 2 e_i w (1 [i = j] - 1 / n)."""
    x, y = RNG.normal(size=(6, 4)).astype(np.float32), RNG.normal(size=(6, 1)).astype(np.float32)
    objective = supervised(lambda x: x - jnp.mean(x, axis=0), head=jnn.dense(1), loss=jnn.losses.squared_error)
    params, state, batch = begun(objective, (x, y), key)
    found = networks.influences(objective, params, state, batch)
    w = np.asarray(params["head"]["w"])
    e = (x - x.mean(0)) @ w - y
    expected = np.abs(2 * e * (np.eye(6) - 1 / 6)) * np.linalg.norm(w)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert networks.separate_examples(objective, params, state, batch, None).ok is False
    apart = supervised(jnn.layer_norm(), head=jnn.dense(1), loss=jnn.losses.squared_error)
    assert networks.separate_examples(apart, *begun(apart, (x, y), key), None).ok


def test_batch_norm_and_pixels_in_whole_numbers_are_apart_and_tokens_are_not_checked(key):
    pixels = RNG.integers(0, 256, (6, 4), dtype=np.uint8), np.zeros(6, np.int32)
    objective = supervised(lambda x: x.astype(jnp.float32) / 255, jnn.dense(5), jnn.batch_norm(), jnn.dense(3))
    assert networks.separate_examples(objective, *begun(objective, pixels, key), None).ok
    words = supervised(jnn.embed(256, 3))
    assert networks.separate_examples(words, *begun(words, (pixels[0][:, 0], pixels[1]), key), None).ok is None


def test_dead_units_are_counted_by_layer(key):
    points, labels = blobs(60)
    objective = supervised(jnn.dense(8), jax.nn.relu, jnn.dense(3))
    params, state, batch = begun(objective, (points, labels), key)
    params["dense_0"]["b"] = jnp.array([-100.0] * 3 + [0.0] * 5)
    found = networks.unit_gradients(objective, params, state, batch)
    assert {path: norms.shape for path, norms in found.items()} == {"dense_0/w": (8,), "dense_2/w": (3,)}
    finding = networks.dead_units(found)
    assert (finding.measured, finding.where) == (3 / 8, ("dense_0/w",))


def test_a_unit_that_validation_examples_switch_on_is_not_dead(key):
    """Each unit is on for the cloud of its class; the training examples lack one."""
    one_each = lambda key, shape, dtype=jnp.float32: jnp.eye(*shape, dtype=dtype)
    off = jnn.initializers.constant(-2.0)
    objective = supervised(jnn.dense(3, w_init=one_each, b_init=off), jax.nn.relu, jnn.dense(3))
    points, labels = blobs(90)
    part = points[labels < 2], labels[labels < 2]

    def finding(**options):
        found = jnn.diagnose(objective, part, key=key, steps=40, **options).findings
        return next(one for one in found if one.name == "dead units")

    assert finding().where == ("dense_0/w",)
    assert finding(validation=blobs(60, 1)).ok


def test_units_of_repeated_layers_are_counted_in_each_copy(key):
    objective = supervised(jnn.repeat(jnn.serial(jnn.dense(4), jax.nn.relu), 3), jnn.dense(3))
    found = networks.unit_gradients(objective, *begun(objective, blobs(30), key))
    assert found["repeat_0/dense_0/w"].shape == (3, 4)


def test_the_scale_is_that_of_what_the_first_layer_is_given(key):
    points, labels = blobs(60)
    scaled = supervised(lambda x: x / 1000, jnn.dense(3))
    for objective, factor in ((supervised(jnn.dense(3)), 1), (scaled, 1000)):
        for size in (1.0, 100.0):
            params, state, batch = begun(objective, (size * factor * points, labels), key)
            found = networks.inputs_scale(objective, params, state, batch)
            assert found.measured == pytest.approx(size * np.sqrt(np.mean(points**2, axis=0)).max(), rel=1e-4)
            assert found.ok is (size == 1)
    words = supervised(jnn.embed(5, 3))
    assert networks.inputs_scale(words, *begun(words, (labels, labels), key)).ok is None


def test_losses_by_class_are_those_of_each_label(key):
    points, labels = blobs(12)
    objective = supervised(jnn.dense(3))
    params, state, _ = begun(objective, (points, labels), key)
    stacked = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), params)
    found = networks.class_losses(objective, stacked, state, points.reshape(2, 6, 4), jnp.arange(3))
    logits = points.reshape(2, 6, 4) @ np.asarray(stacked["dense_0"]["w"])
    np.testing.assert_allclose(found, -jax.nn.log_softmax(logits), rtol=1e-5)


def test_a_gap_is_a_share_of_the_fall():
    assert curves.generalization(2.0, 1.0, 1.1).measured == pytest.approx(0.1)
    assert not curves.generalization(2.0, 0.0, 1.0).ok
    assert curves.generalization(2.0, 1.99, 1.0).ok is None
    assert curves.generalization(2.0, math.nan, math.nan).ok is None
