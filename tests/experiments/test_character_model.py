import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jnn
from experiments import character_model
from experiments.character_model import MODELS, SIZES, model_of
from experiments.texts import bigram_loss, excerpts, in_a_row, reread

pytestmark = pytest.mark.slow


def test_both_learn_and_write_the_same_with_what_they_carry(quick, tmp_path):
    results = quick("character_model", ["losses_and_speed"])
    for name in ("lstm", "gpt"):
        (losses,) = results[name]["losses"]
        assert losses[-1] < min(losses[0], 3.0)
        assert results[name]["same_text"] == 1.0
        for text in results[name]["samples"].values():
            assert text.startswith("ROMEO:")
            assert len(text) == SIZES["quick"].window + 1
            assert text in (tmp_path / "samples.md").read_text()
    assert 2.3 < results["bigram"] < 2.7
    carried, anew = results["lstm"]["characters_per_second"]
    assert carried > anew


def test_unknown_models_are_refused():
    with pytest.raises(character_model.InputError, match="--models: some of rnn,lstm,gru,gpt, got rnn,bert"):
        character_model.main(["--quick", "--models", "rnn,bert"])


@pytest.mark.parametrize("size", ["full", "large"])
@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_a_twin_of_the_same_parameters_that_its_optimizer_takes(name, size, key):
    tokens = jax.ShapeDtypeStruct((2, SIZES[size].window), jnp.int32)
    (params, _), (same, state) = (
        jax.eval_shape(model_of(name, SIZES[size], 65, cache).init, key, tokens) for cache in (False, True)
    )
    assert jax.tree.map(jnp.shape, same) == jax.tree.map(jnp.shape, params)
    assert jax.tree.leaves(state)
    jax.eval_shape(character_model.optimizer_of(name, 100).init, params)


def test_texts_are_cut_so_that_a_target_is_the_token_that_comes_next(key):
    tokens = jnp.arange(100, 150)
    inputs, targets = excerpts(key, tokens, 7, 300)
    np.testing.assert_array_equal(inputs, inputs[:, :1] + np.arange(7))
    np.testing.assert_array_equal(targets, inputs + 1)
    np.testing.assert_array_equal(np.unique(inputs[:, 0]), range(100, 143))
    inputs, targets = in_a_row(tokens, 7)
    np.testing.assert_array_equal(inputs.ravel(), range(100, 149))
    np.testing.assert_array_equal(targets.ravel(), range(101, 150))


def test_the_loss_of_pairs_is_counted():
    # after 0 twice 1, after 1 once 0, and one more each; held out: 1 after 0, 0 after 1
    loss = bigram_loss(np.array([0, 1, 0, 1]), np.array([0, 1, 0]), 2)
    np.testing.assert_allclose(loss, -(np.log(3 / 4) + np.log(2 / 3)) / 2)


@pytest.mark.parametrize("name", ["rnn", "gpt"])
def test_reading_anew_writes_what_generate_writes(name, key):
    size = SIZES["quick"]._replace(features=8, width=16, window=9)
    model, twin = (model_of(name, size, 11, cache) for cache in (False, True))
    prompt = jax.random.randint(key, (2, 3), 0, 11)
    params, _ = model.init(key, prompt)
    params = jax.tree.map(lambda p: 8 * p, params)
    _, state = twin.init(key, prompt)
    heat = jnp.array([0.5, 2.0])
    expected, _ = jnn.generate(twin, params, state, prompt, length=7, key=key, temperature=heat)
    np.testing.assert_array_equal(reread(model, params, prompt, length=7, key=key, temperature=heat), expected)
