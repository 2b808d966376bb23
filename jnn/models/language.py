"""Language models: tokens (integers) to the logits of the next token."""

import math
from collections.abc import Callable

from jnn import combinators
from jnn.activations import gelu
from jnn.combinators import repeat, residual, serial
from jnn.compositions import compose
from jnn.errors import LayerError
from jnn.initializers import normal
from jnn.layers import attention, dense, dropout, embed, layer_norm, learned_positions, lstm, stateful
from jnn.layers.products import affine
from jnn.numbers import whole
from jnn.types import Layer


def language_model(
    vocabulary: int,
    *,
    cell: Callable[..., Layer] = lstm,
    width: int = 64,
    features: int = 256,
    layers: int = 1,
    rate=None,
    cache: bool = False,
) -> Layer:
    """(..., time) integers -> (..., time, vocabulary):  embedding, recurrent layers, and the logits of the next token.

    cell: the factory of the recurrent layers: `jnn.rnn`, `jnn.lstm`, `jnn.gru`, or your own of one whole number.
    width: of the embedding; features: of each recurrent layer; layers: how many.
    rate: the share that dropout takes before each recurrent layer and the head (Zaremba et al. 2014); None for no dropout.
    cache: the decoding twin, with the same parameters: it keeps what its cells know in its state, by `jnn.stateful`, and
        takes the tokens that come next. A cell of your own is then called with return_state=True too.
    """
    if not callable(cell):
        raise TypeError(f"language_model: cell must be a factory, as jnn.lstm is, got {cell!r}")
    body = {}
    for i in range(whole("language_model", "layers", layers)):
        if rate is not None:
            body[f"dropout_{i}"] = dropout(rate)
        body[f"cell_{i}"] = stateful(cell(features, return_state=True)) if cache else cell(features)
    if rate is not None:
        body["dropout"] = dropout(rate)
    return serial(embed=embed(vocabulary, width), **body, head=dense(vocabulary))


def gpt(
    vocabulary: int,
    length: int,
    *,
    layers: int,
    width: int,
    heads: int,
    kv_heads: int | None = None,
    rotary: bool = False,
    rate=None,
    cache: bool = False,
    logits: bool = True,
    remat: bool = False,
) -> Layer:
    """(..., time) integers -> (..., time, vocabulary):  a decoder-only transformer as GPT-2 (Radford et al. 2019): layer norm
    before attention and before the two dense layers of 4 * width, GELU, embeddings tied to the head.

    length: the longest sequence, in tokens. As each sees those before it only, padding behind a sequence changes nothing.
    kv_heads: fewer heads for keys and values than for queries. rotary: rotary positions instead of learned ones.
    rate: the share that dropout takes after the embedding, attention and dense layers; None for no dropout.
    cache: the decoding twin, with the same parameters: it keeps keys, values and the position of up to `length` tokens in
        its state, and takes the tokens that come next.
    logits: False returns what `losses.linear_cross_entropy` makes the loss of, the pair of (..., time, width) and
        (width, vocabulary) whose product the logits are, for vocabularies whose logits fill the memory.
    remat: True keeps of each block its input alone for the gradient, and computes the rest again: less memory, a third more
        time.
    Parameters: `embed`, `positions` (learned), `repeat` (all blocks, stacked), `norm`. GPT-2 "124M",
    `gpt(50257, 1024, layers=12, width=768, heads=12)`, has 124,439,808.
    """
    length, layers = whole("gpt", "length", length), whole("gpt", "layers", layers)
    small = normal(0.02)
    # the sum of 2 * layers outputs keeps its variance, Radford et al. 2019, section 2.3
    smaller = normal(0.02 / math.sqrt(2 * layers))
    cache_length = length if cache else None

    def drop():
        return {} if rate is None else {"dropout": dropout(rate)}

    attend = serial(
        norm=layer_norm(),
        attention=attention(
            heads, kv_heads=kv_heads, causal=True, rotary=rotary, cache=cache_length, w_init=small, out_init=smaller
        ),
        **drop(),
    )
    think = serial(
        norm=layer_norm(),
        up=dense(4 * width, w_init=small),
        gelu=gelu,
        down=dense(width, w_init=smaller),
        **drop(),
    )
    children = {"embed": embed(vocabulary, width, table_init=small)}
    if not rotary:
        children["positions"] = learned_positions(length, cache=cache_length)
    children |= drop()
    block = serial(attend=residual(attend), think=residual(think))
    children |= {"repeat": repeat(combinators.remat(block) if remat else block, layers), "norm": layer_norm()}

    def forward(net, tokens):
        if tokens.shape[-1] > length:  # with rotary positions nothing else would say so
            raise LayerError("gpt", f"expected at most {length} tokens, got {tokens.shape[-1]} in {tokens.shape}")
        x = net.embed(tokens)
        if not rotary:
            x = net.positions(x)
        if rate is not None:
            x = net.dropout(x)
        x = net.norm(net.repeat(x))
        head = net.params["embed"]["table"].T
        return affine(x, head) if logits else (x, head)

    return compose(forward, **children)
