"""`generate` against the whole text read again at every step, by the model that is trained, without cache or scan."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jnn
from jnn import models

from layer_properties import filled

VOCABULARY, PROMPT, LENGTH = 11, 3, 7
GPT = {"length": PROMPT + LENGTH - 1, "layers": 2, "width": 16, "heads": 2}
MODELS = {
    "gpt": lambda **cache: models.gpt(VOCABULARY, **GPT, **cache),
    "gpt, rotary": lambda **cache: models.gpt(VOCABULARY, **GPT, kv_heads=1, rotary=True, **cache),
    "rnn": lambda **cache: models.language_model(VOCABULARY, cell=jnn.rnn, width=8, features=12, **cache),
    "lstm": lambda **cache: models.language_model(VOCABULARY, width=8, features=12, layers=2, rate=0.5, **cache),
    "gru": lambda **cache: models.language_model(VOCABULARY, cell=jnn.gru, width=8, features=12, **cache),
}
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def prompts(*leading, time=PROMPT):
    return jnp.asarray(np.random.default_rng(0).integers(0, VOCABULARY, (*leading, time)), jnp.int32)


@functools.cache  # a program is compiled for each model
def made(make, **options):
    return make(**options)


def twin(make, prompt, scale=0.5):
    """-> the model, its decoding twin, parameters of both, a fresh state of the twin"""
    model, decoder = made(make), made(make, cache=True)
    params, _ = jax.eval_shape(model.init, jax.random.key(0), prompt)
    same, state = jax.jit(decoder.init)(jax.random.key(0), prompt)
    assert jax.tree.map(jnp.shape, same) == jax.tree.map(jnp.shape, params)
    return model, decoder, jax.tree.map(lambda p: scale * p, filled(params)), state


@functools.cache
def jitted(model):
    return jax.jit(model.apply)


def recomputed(model, params, prompt, length, key, temperature):
    """The tokens by the definition: each from the logits of the whole text before it.

    The text is filled up with zeros, which a causal model does not see, so that one compiled program reads every length.
    """
    apply, time = jitted(model), prompt.shape[-1]
    text = jnp.concatenate([prompt, jnp.zeros_like(prompt, shape=(*prompt.shape[:-1], length))], axis=-1)
    for t in range(length):
        logits = apply(params, {}, text[..., :-1])[0][..., time + t - 1, :]
        if not temperature:
            token = jnp.argmax(logits, axis=-1)
        else:
            token = jax.random.categorical(jax.random.fold_in(key, t), logits / temperature)
        text = text.at[..., time + t].set(token.astype(text.dtype))
    return text[..., time:]


@every_model
def test_tokens_are_those_of_the_whole_text_read_again(make, key):
    prompt = prompts(4)
    model, decoder, params, state = twin(make, prompt)
    for temperature in (0.0, 1.0, 0.6):
        tokens, _ = jnn.generate(decoder, params, state, prompt, length=LENGTH, key=key, temperature=temperature)
        expected = recomputed(model, params, prompt, LENGTH, key, temperature)
        assert (tokens.shape, tokens.dtype) == ((4, LENGTH), prompt.dtype)
        np.testing.assert_array_equal(tokens, expected)
    assert len(np.unique(tokens)) > 3


@pytest.mark.parametrize("leading", [(), (2, 3)], ids=str)
def test_any_leading_axes_and_a_temperature_for_each(leading, key):
    prompt = prompts(*leading)
    model, decoder, params, state = twin(MODELS["gru"], prompt)
    tokens, _ = jnn.generate(decoder, params, state, prompt, length=4, key=key)
    np.testing.assert_array_equal(tokens, recomputed(model, params, prompt, 4, key, 1.0))
    if leading:
        each = jnp.array([0.0, 1.0, 2.0])
        tokens, _ = jnn.generate(decoder, params, state, prompt, length=4, key=key, temperature=each)
        for i, temperature in enumerate(each):
            expected, _ = jnn.generate(decoder, params, state, prompt, length=4, key=key, temperature=temperature)
            np.testing.assert_array_equal(tokens[:, i], expected[:, i])


def test_it_is_pure_and_the_temperature_may_be_traced(key):
    prompt = prompts(2)
    _, decoder, params, state = twin(MODELS["lstm"], prompt)

    def text(temperature, key):
        return jnn.generate(decoder, params, state, prompt, length=5, key=key, temperature=temperature)[0]

    temperatures, keys = jnp.array([0.0, 0.5, 3.0]), jax.random.split(key, 3)
    mapped = jax.jit(jax.vmap(text))(temperatures, keys)
    for row, temperature, one in zip(mapped, temperatures, keys, strict=True):
        np.testing.assert_array_equal(row, text(temperature, one))
    np.testing.assert_array_equal(text(0.0, keys[0]), text(0.0, keys[1]))
    assert np.any(text(3.0, keys[0]) != text(3.0, keys[1]))


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_tokens_are_distributed_as_the_softmax_says(temperature, key):
    prompt = jnp.broadcast_to(prompts(), (20_000, PROMPT))
    model, decoder, params, state = twin(MODELS["rnn"], prompt, scale=0.3)
    tokens, _ = jnn.generate(decoder, params, state, prompt, length=2, key=key, temperature=temperature)
    first, second = np.asarray(tokens).T
    often = np.bincount(first).argmax()
    for seen, text in ((first, prompt[0]), (second[first == often], jnp.append(prompt[0], often))):
        logits = np.asarray(model.apply(params, {}, text)[0][-1], np.float64) / temperature
        expected = np.exp(logits) / np.exp(logits).sum()
        counts = np.bincount(seen, minlength=VOCABULARY)
        enough = expected * len(seen) >= 5
        assert enough.sum() >= 4
        observed = np.append(counts[enough], counts[~enough].sum())
        wanted = np.append(expected[enough], expected[~enough].sum()) * len(seen)
        keep = wanted > 0
        assert stats.chisquare(observed[keep], wanted[keep] * observed.sum() / wanted[keep].sum()).pvalue > 1e-3


@pytest.mark.parametrize("name", ["gpt", "lstm"])
def test_a_text_goes_on_from_the_state_that_came_back(name, key):
    prompt = prompts(2)
    _, decoder, params, state = twin(MODELS[name], prompt)
    whole, _ = jnn.generate(decoder, params, state, prompt, length=LENGTH, key=key, temperature=0)
    first, state = jnn.generate(decoder, params, state, prompt, length=3, key=key, temperature=0)
    rest, _ = jnn.generate(decoder, params, state, first[:, -1:], length=LENGTH - 3, key=key, temperature=0)
    np.testing.assert_array_equal(jnp.concatenate([first, rest], 1), whole)


def test_past_the_end_of_the_cache_there_is_no_token(key):
    prompt = prompts(2)
    _, decoder, params, state = twin(MODELS["gpt"], prompt)
    first, state = jnn.generate(decoder, params, state, prompt, length=LENGTH - 2, key=key)
    rest, _ = jnn.generate(decoder, params, state, first[:, -1:], length=4, key=key)
    assert np.all(first >= 0)
    np.testing.assert_array_equal(rest >= 0, [[True, True, False, False]] * 2)
    np.testing.assert_array_equal(rest[:, 2:], -1)


def test_a_longer_text_than_the_cache_holds_is_refused(key, raises):
    prompt = prompts(2)
    _, decoder, params, state = twin(MODELS["gpt"], prompt)
    with raises(
        ValueError,
        "generate: a prompt of 3 tokens and 8 more, the last of which is not read, are 10 tokens to read, but "
        "gpt: expected at most 9 tokens, got 10 in (2, 10)",
    ):
        jnn.generate(decoder, params, state, prompt, length=LENGTH + 1, key=key)


@pytest.mark.parametrize("name", ["gpt", "lstm"])
def test_a_model_that_forgets_is_refused(name, key, raises):
    prompt = prompts(2)
    model, _, params, _ = twin(MODELS[name], prompt)
    with raises(
        ValueError,
        "generate: the model carries nothing from one call to the next: make its decoding twin, which has the same "
        "parameters, by cache=True, or by jnn.stateful around its recurrent layers",
    ):
        jnn.generate(model, params, {}, prompt, length=2, key=key)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"length": 0}, "generate: length must be at least 1, got 0"),
        ({"temperature": -0.5}, "generate: temperature must not be negative, got -0.5"),
        (
            {"temperature": jnp.ones(3)},
            "generate: temperature must be a number or fit the leading axes (2,), got (3,)",
        ),
        ({"prompt": jnp.ones((2, 3))}, "generate: expected a prompt of integers (..., time), got float32 (2, 3)"),
        ({"prompt": "To be"}, "generate: expected a prompt of integers (..., time), got str 'To be'"),
        ({"prompt": prompts(2, time=0)}, "generate: the prompt (2, 0) is empty: give at least one token to begin with"),
        ({"prompt": prompts(3)}, "cell_0: expected initial float32 (3, 12), got float32 (2, 12)"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(changes, message, key, raises):
    _, decoder, params, state = twin(MODELS["rnn"], prompts(2))
    with raises(ValueError, message):
        jnn.generate(decoder, params, state, **{"prompt": prompts(2), "length": 2, "key": key, **changes})


def test_a_model_of_something_else_than_logits_is_refused(key, raises):
    layer = jnn.serial(jnn.embed(VOCABULARY, 4), jnn.stateful(jnn.rnn(4, return_state=True)), lambda y: y[..., 0, :])
    params, state = layer.init(key, prompts(2))
    with raises(ValueError, "generate: expected logits (..., time, vocabulary) of tokens (2, 3), got float32 (2, 4)"):
        jnn.generate(layer, params, state, prompts(2), length=2, key=key)
