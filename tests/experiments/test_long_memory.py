import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import long_memory, recurrences
from experiments.recall import LETTERS, SYMBOLS, TASKS, adding, copying

pytestmark = pytest.mark.slow


def test_every_network_remembers_a_little_while(quick):
    results = quick("long_memory", ["lengths", "gradients"])
    for network in long_memory.NAMES:
        assert max(results["adding"]["10"][network]["test"]) < TASKS["adding"].chance / 5
        assert max(results["copying"]["5"][network]["test"]) < TASKS["copying"].chance - 15
        assert np.shape(results["gradients"]["after"][network]) == (3, 10)
    before = results["gradients"]["before"]
    assert before["rnn"] == before["rnn, clipped"]
    # tanh shrinks what an orthogonal matrix keeps
    assert all(norms[0] < norms[-1] for norms in before["rnn"])


def test_two_numbers_are_marked_and_their_sum_is_the_target(key):
    inputs, targets = map(np.asarray, adding(key, 200, 10))
    values, marks = np.moveaxis(inputs, -1, 0)
    np.testing.assert_array_equal(marks[:, :5].sum(1), 1)
    np.testing.assert_array_equal(marks[:, 5:].sum(1), 1)
    np.testing.assert_array_equal(np.unique(marks), [0, 1])
    np.testing.assert_allclose(targets[:, 0, 0], (values * marks).sum(1), rtol=1e-6)
    np.testing.assert_allclose(np.mean((adding(key, 20_000, 4)[1] - 1) ** 2), TASKS["adding"].chance, rtol=0.05)
    assert (marks.mean(0) > 0.1).all()


def test_letters_come_first_and_are_asked_for_after_the_delay(key):
    inputs, letters = copying(key, 50, 7)
    text = np.argmax(inputs, -1)
    assert inputs.shape == (50, 7 + 2 * SYMBOLS, LETTERS + 2)
    np.testing.assert_array_equal(text[:, :SYMBOLS], letters)
    np.testing.assert_array_equal(text[:, SYMBOLS:], [[LETTERS] * 6 + [LETTERS + 1] + [LETTERS] * SYMBOLS] * 50)
    np.testing.assert_array_equal(np.unique(letters), range(LETTERS))


def test_the_gradient_by_the_state_is_that_of_the_chain_rule(key):
    task = TASKS["adding"]
    inputs, targets = adding(key, 3, 6)
    params, _ = recurrences.network(task, "rnn").init(key, inputs)
    p = jax.tree.map(lambda a: np.asarray(a, float), params)
    cell, head = p["cell"], p["head"]
    expected = []
    for x, target in zip(np.asarray(inputs, float), np.asarray(targets, float)[:, 0, 0], strict=True):
        states = [np.zeros(recurrences.WIDTH)]
        for x_t in x:
            states.append(np.tanh(x_t @ cell["wx"] + states[-1] @ cell["wh"] + cell["b"]))
        back = 2 * (states[-1] @ head["w"] + head["b"] - target) * head["w"][:, 0]
        norms = []
        for h in states[:0:-1]:
            back = cell["wh"] @ ((1 - h**2) * back)
            norms.append(np.linalg.norm(back))
        expected.append(norms[::-1])
    np.testing.assert_allclose(
        recurrences.state_gradients(task, "rnn", params, inputs, targets), np.mean(expected, 0), rtol=1e-4
    )


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_gradient_by_the_whole_state_is_that_of_the_rest_of_the_sequence(cell, key):
    task = TASKS["copying"]
    inputs, targets = copying(key, 2, 3)
    params, _ = recurrences.network(task, cell).init(key, inputs)
    twin = recurrences.network(task, cell, stateful=True)
    _, state = twin.init(key, inputs)
    _, state = twin.apply(params, state, inputs[:, :4])

    def rest(state):
        outputs, _ = twin.apply(params, state, inputs[:, 4:])
        return jnp.sum(task.loss(outputs[:, -1], targets[:, -1]))

    squares = sum(np.sum(np.asarray(g) ** 2, -1) for g in jax.tree.leaves(jax.grad(rest)(state)))
    norms = recurrences.state_gradients(task, cell, params, inputs, targets)
    np.testing.assert_allclose(norms[4], np.mean(np.sqrt(squares)), rtol=1e-4)
