"""Text from language models: one token after another, each drawn from what the model makes of those before it."""

import inspect
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jnn.closures import holds_tracer
from jnn.errors import LayerError
from jnn.layers.checks import describe
from jnn.numbers import whole
from jnn.pairs import as_layer
from jnn.types import Layer


def generate(model, params, state, prompt, *, length: int, key, temperature: Any = 1.0):
    """prompt (..., time) integers -> tokens (..., length), and the state:  token_t ~ softmax(logits_t / temperature).

        decoder = jnn.models.gpt(65, 256, layers=4, width=128, heads=4, cache=True)  # the twin of what was trained
        _, state = decoder.init(key, prompt)
        tokens, state = jnn.generate(decoder, params, state, prompt, length=100, key=key)

    A pure function, compiled once for each model, shape and length: works inside `jit` and `vmap`. The prompt is read at
    once; then a scan reads one token at a time, and the state carries what was read before.

    model: a decoding twin, tokens (..., time) that come next -> logits (..., time, vocabulary): `models.gpt` and
        `models.language_model` with cache=True, or a Layer of your own whose state carries all that it has to know of the
        tokens before, by `jnn.stateful` or `jnn.attention(cache=...)`.
    state: a fresh one, of `init` for the prompt or for any array of its leading axes; or the one that came back, which has
        read all but the last token: with that token as prompt, `tokens[..., -1:]`, the text goes on.
    key: token t is drawn as `jax.random.categorical(jax.random.fold_in(key, t), logits / temperature)` draws it.
    temperature: 0 takes the likeliest token, and large ones any token. A number or an array that the leading axes of the
        prompt broadcast with, so that each prompt may have its own; may be traced.

    A token is -1 where a logit is NaN: past the end of the cache, or after a token that there is not.
    Raises ValueError when prompt is not of integers or is empty, the temperature is negative or of another shape, the model
    carries nothing from one call to the next, or its logits are no (..., time, vocabulary); when prompt and length are more
    tokens than it can read, the last one not counted, with what the model says of that.
    """
    length = whole("generate", "length", length)
    if not hasattr(prompt, "dtype") or not jnp.issubdtype(prompt.dtype, jnp.integer) or prompt.ndim < 1:
        raise ValueError(f"generate: expected a prompt of integers (..., time), got {describe(prompt)}")
    if not prompt.shape[-1]:
        raise ValueError(f"generate: the prompt {prompt.shape} is empty: give at least one token to begin with")
    if not isinstance(temperature, Tracer) and np.any(np.asarray(temperature) < 0):
        raise ValueError(f"generate: temperature must not be negative, got {temperature}")
    temperature = jnp.asarray(temperature)
    leading = prompt.shape[:-1]
    ends = zip(temperature.shape[::-1], leading[::-1], strict=False)
    if temperature.ndim > len(leading) or any(n not in (1, m) for n, m in ends):
        raise ValueError(f"generate: temperature must be a number or fit the leading axes {leading}, got {temperature.shape}")
    model = as_layer(model)
    compiled = inspect.unwrap(_generate) if holds_tracer(model) else _generate
    return compiled(model, params, state, prompt, key, temperature, length=length)


@partial(jax.jit, static_argnames=("model", "length"))
def _generate(model, params, state, prompt, key, temperature, *, length):
    _require_carrying(model, params, state, prompt)
    _require_room(model, params, state, prompt, length)

    def drawn(logits, t):
        # argmax(logits / T + noise), and at T = 0 without a division
        noise = jax.random.gumbel(jax.random.fold_in(key, t), logits.shape, logits.dtype)
        token = jnp.argmax(logits + temperature.astype(logits.dtype)[..., None] * noise, axis=-1).astype(prompt.dtype)
        return jnp.where(jnp.any(jnp.isnan(logits), axis=-1), jnp.full_like(token, -1), token)

    def step(carry, t):
        state, token = carry
        logits, state = model.apply(params, state, token[..., None])
        token = drawn(logits[..., -1, :], t)
        return (state, token), token

    logits, state = model.apply(params, state, prompt)
    first = drawn(logits[..., -1, :], 0)
    (state, _), rest = jax.lax.scan(step, (state, first), jnp.arange(1, length))
    return jnp.moveaxis(jnp.concatenate([first[None], rest]), 0, -1), state


def _require_carrying(model: Layer, params, state, prompt):
    """Raises unless the model changes its state as it reads: read token by token, it would forget all but the last one."""
    leaves, structure = jax.tree.flatten((params, state, prompt))
    program, (logits, _) = jax.make_jaxpr(lambda *leaves: model.apply(*structure.unflatten(leaves)), return_shape=True)(*leaves)
    logits: Any = logits
    if getattr(logits, "shape", ())[:-1] != prompt.shape or not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(f"generate: expected logits (..., time, vocabulary) of tokens {prompt.shape}, got {describe(logits)}")
    given = {id(variable) for variable in program.jaxpr.invars}
    if all(id(variable) in given for variable in program.jaxpr.outvars[1:]):
        raise ValueError(
            "generate: the model carries nothing from one call to the next: make its decoding twin, which has the same "
            "parameters, by cache=True, or by jnn.stateful around its recurrent layers"
        )


def _require_room(model: Layer, params, state, prompt, length):
    """Raises when the model cannot read as many tokens as it will be given."""
    tokens = prompt.shape[-1] + length - 1
    text = jax.ShapeDtypeStruct((*prompt.shape[:-1], tokens), prompt.dtype)
    try:
        jax.eval_shape(model.apply, params, state, text)
    except LayerError as error:
        raise ValueError(
            f"generate: a prompt of {prompt.shape[-1]} tokens and {length} more, the last of which is not read, "
            f"are {tokens} tokens to read, but {error}"
        ) from error
