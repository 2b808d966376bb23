"""Text as tokens: excerpts to learn from, the whole in a row to judge by, counts of pairs, writing with and without a cache."""

import time

import jax
import jax.numpy as jnp
import numpy as np

import jnn


def excerpts(key, tokens, window: int, batch: int):
    """-> inputs and targets (batch, window) from anywhere in the text; a target is the token that comes next."""
    starts = jax.random.randint(key, (batch, 1), 0, len(tokens) - window)
    text = tokens[starts + jnp.arange(window + 1)]
    return text[:, :-1], text[:, 1:]


def in_a_row(tokens, window: int):
    """The whole text as (windows, window) inputs and targets, but for what is left and fills no window."""
    whole = (len(tokens) - 1) // window * window
    return tokens[:whole].reshape(-1, window), tokens[1 : whole + 1].reshape(-1, window)


def bigram_loss(train, held_out, symbols: int) -> float:
    """Nats for each character, from counts of pairs, one added to each."""
    counts = np.ones((symbols, symbols))
    np.add.at(counts, (train[:-1], train[1:]), 1)
    return float(-np.log(counts / counts.sum(1, keepdims=True))[held_out[:-1], held_out[1:]].mean())


def reread(model, params, prompt, *, length: int, key, temperature):
    """What `jnn.generate` gives, by reading the whole text for each token."""
    time = prompt.shape[-1]

    def step(text, t):
        logits = model.apply(params, {}, text)[0][:, time + t - 1]
        token = jax.random.categorical(jax.random.fold_in(key, t), logits / temperature[:, None]).astype(text.dtype)
        return text.at[:, time + t].set(token, mode="drop"), token

    text = jnp.pad(prompt, ((0, 0), (0, length - 1)))
    return jax.lax.scan(step, text, jnp.arange(length))[1].T


def written(model, twin, params, symbols: str, prompt: str, temperatures, *, length: int, key):
    """What a model and its decoding twin write, `length` tokens at each temperature: -> the twin's texts, the share of tokens
    that are the same when the whole text is read for each, and tokens a second of both ways."""
    tokens = jnp.array([[symbols.index(c) for c in prompt]] * len(temperatures))
    heat = jnp.array(temperatures)
    _, fresh = jax.jit(twin.init)(key, tokens)
    carried = jax.jit(lambda *of: jnn.generate(twin, *of[:3], length=length, key=key, temperature=of[3])[0])
    anew = jax.jit(lambda params, _, prompt, heat: reread(model, params, prompt, length=length, key=key, temperature=heat))
    texts, speeds = [], []
    for write in (carried, anew):
        texts.append(np.asarray(write(params, fresh, tokens, heat)))
        seconds = []
        for _ in range(5):
            began = time.perf_counter()
            jax.block_until_ready(write(params, fresh, tokens, heat))
            seconds.append(time.perf_counter() - began)
        speeds.append(len(temperatures) * length / min(seconds))
    readable = [prompt + "".join(symbols[token] for token in text) for text in texts[0]]
    return readable, float((texts[0] == texts[1]).mean()), speeds
