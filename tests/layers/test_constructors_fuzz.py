"""Whatever a layer is made of and given: an error of jnn's own that names the layer, or the shapes of a formula."""

import math
import operator
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arbitrary import JUNK
from hypothesis import given
from hypothesis import strategies as st

import jnn
from jnn.errors import LayerError

KEY = jax.random.key(0)


class RefusedError(Exception):
    """What the formula has no answer for."""


class Shapes(NamedTuple):
    """What a layer must give. Those of parameters and state by path: "forward/wx"."""

    params: dict[str, tuple[int, ...]]
    y: Any  # shape and dtype of the result; of a Graph, those of its nodes
    state: dict[str, tuple[int, ...]] = {}  # noqa: RUF012  never written to


class Row(NamedTuple):
    name: str
    make: Callable[..., jnn.Layer]
    arguments: dict[str, st.SearchStrategy]  # such as a user would give
    formula: Callable[..., Shapes]  # (x, train, **arguments)
    x: st.SearchStrategy
    layers: tuple[str, ...] = ()  # inside it, which an error may begin with instead


# Arguments


def whole(value, least=1) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise RefusedError from None
    if not least <= number < 2**31:
        raise RefusedError
    return number


def real(value, most):
    if isinstance(value, np.ndarray | jax.Array | np.generic):
        if value.shape or getattr(value.dtype, "kind", "key") not in "fiu":
            raise RefusedError
        value = value.item()
    if not isinstance(value, int | float) or not 0 <= value <= most:
        raise RefusedError


def require(condition):
    if not condition:
        raise RefusedError


def per_axis(value, axes) -> list[int]:
    if isinstance(value, tuple | list):
        require(len(value) == axes)
        return [whole(entry) for entry in value]
    return [whole(value)] * axes


def pads_of(padding, axes):
    """A name, or pairs."""
    if isinstance(padding, str):
        require(padding in ("SAME", "VALID"))
        return padding
    if not isinstance(padding, tuple | list):
        return [(whole(padding, 0),) * 2] * axes
    require(len(padding) == axes and all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in padding))
    return [(whole(low, 0), whole(high, 0)) for low, high in padding]


SIZE = st.integers(1, 6) | st.sampled_from([1, 2, 2**31 - 1, np.int32(2), np.array(2)])
SHARE = st.floats(0, 1) | st.sampled_from([0, 1, True, np.float32(0.5), np.array(0.25), jnp.float32(0.5)])
EPS = st.floats(0, 1) | st.sampled_from([0, 1e-5, np.float32(1e-6), jnp.float32(1e-3)])


W, B, WH = ({f"{name}_init": st.just(jnn.initializers.normal(0.1))} for name in ("w", "b", "wh"))
INITIALIZERS = dict.fromkeys(("dense", "maxout", "conv", "conv_transpose", "attention", "graph_conv", "graph_attention"), W | B)
INITIALIZERS |= dict.fromkeys(("rnn", "lstm", "gru", "jordan"), W | B | WH)
INITIALIZERS |= {name: {"table_init": W["w_init"]} for name in ("embed", "learned_positions")}
MAY_BE_NONE = [("dense", "b_init"), ("conv", "b_init"), ("conv_transpose", "b_init"), ("embed", "table_init")]


@st.composite
def arguments_of(draw, row: Row):
    given = {name: draw(values) for name, values in (row.arguments | INITIALIZERS.get(row.name, {})).items()}
    if given and draw(st.booleans()):
        given[draw(st.sampled_from(sorted(given)))] = draw(JUNK)
    return given


# Inputs

DTYPES = ["float32"] * 24 + ["bfloat16", "float16", "float8_e5m2", "float8_e4m3fn", "int32", "uint8", "bool", "complex64"]
TOKENS = ["int32"] * 12 + ["int8", "uint8", "uint32", "int4", "bool", "float32"]
NO_ARRAYS = [None, 3, 2.5, "text", b"", [1.0, 2.0], {}, {"x": np.ones(3)}, (), (1.0, 2.0), object(), jnn.dense]


def arrays(dtypes=DTYPES, axes=5, largest=8, least=0):
    shapes = st.lists(
        st.sampled_from([*range(largest + 1), *range(1, largest + 1), *range(1, 4)]), min_size=least, max_size=axes
    ).map(tuple)
    return st.builds(jax.ShapeDtypeStruct, shapes, st.sampled_from(dtypes).map(jnp.dtype))


def graphs():
    edges = st.builds(jax.ShapeDtypeStruct, st.sampled_from([(0,), (3,), (3,), (3,), (3, 1), ()]), st.sampled_from(TOKENS))
    return st.builds(jnn.Graph, arrays(axes=3), edges, edges, st.none() | edges)


def floating(x, least=1):
    require(hasattr(x, "shape") and hasattr(x, "dtype") and len(x.shape) >= least and jnp.issubdtype(x.dtype, jnp.floating))


def as_parameters(x, least=1):
    """x of float32, as the parameters it meets."""
    floating(x, least)
    require(x.dtype == np.float32)


def like(x, *shape):
    return jax.ShapeDtypeStruct(shape, x.dtype)


# Formulas


def dense(x, train, features):
    features = whole(features)
    as_parameters(x)
    return Shapes({"w": (x.shape[-1], features), "b": (features,)}, like(x, *x.shape[:-1], features))


def maxout(x, train, features, pieces):
    features, pieces = whole(features), whole(pieces)
    as_parameters(x)
    shapes = {"w": (pieces, x.shape[-1], features), "b": (pieces, features)}
    return Shapes(shapes, like(x, *x.shape[:-1], features))


def window_of(window):
    window = window if isinstance(window, tuple | list) else (window, window)
    require(1 <= len(window) <= 3)
    return per_axis(window, len(window))


def slid(n, window, stride, dilation, pads):
    """torch's formula; https://docs.pytorch.org/docs/stable/generated/torch.nn.Conv2d.html"""
    require(n >= 1)
    if pads == "SAME":
        return -(-n // stride)
    low, high = (0, 0) if pads == "VALID" else pads
    room = n + low + high - dilation * (window - 1) - 1
    require(room >= 0)
    return room // stride + 1


def slid_back(n, window, stride, dilation, pads):
    """torch's formula, and flax's of "SAME" and "VALID"."""
    require(n >= 1)
    extent = dilation * (window - 1) + 1
    if isinstance(pads, str):
        return n * stride + (max(extent - stride, 0) if pads == "VALID" else 0)
    size = (n - 1) * stride - sum(pads) + extent
    require(size >= 1)
    return size


def convolution(size_after):
    def formula(x, train, features, window, stride, padding, dilation, groups):
        window = window_of(window)
        axes = len(window)
        stride, dilation, pads = per_axis(stride, axes), per_axis(dilation, axes), pads_of(padding, axes)
        features, groups = whole(features), whole(groups)
        require(features % groups == 0)
        as_parameters(x, axes + 1)
        *lead, channels = (*x.shape[: -axes - 1], x.shape[-1])
        require(channels % groups == 0)
        pads = [pads] * axes if isinstance(pads, str) else pads
        after = [size_after(*each) for each in zip(x.shape[-axes - 1 : -1], window, stride, dilation, pads, strict=True)]
        return Shapes({"w": (*window, channels // groups, features), "b": (features,)}, like(x, *lead, *after, features))

    return formula


def pool(x, train, window, stride, padding):
    size = window_of(window)
    axes = len(size)
    stride, pads = per_axis(window if stride is None else stride, axes), pads_of(padding, axes)
    pads = [pads] * axes if isinstance(pads, str) else pads
    require(all(isinstance(pad, str) or max(pad) < n for pad, n in zip(pads, size, strict=True)))
    floating(x, axes + 1)
    after = [slid(n, w, s, 1, pad) for n, w, s, pad in zip(x.shape[-axes - 1 : -1], size, stride, pads, strict=True)]
    return Shapes({}, like(x, *x.shape[: -axes - 1], *after, x.shape[-1]))


def global_pool(x, train, axes):
    axes = whole(axes)
    require(axes <= 3)
    floating(x, axes + 1)
    require(all(x.shape[-axes - 1 : -1]))
    return Shapes({}, like(x, *x.shape[: -axes - 1], x.shape[-1]))


def flatten(x, train, axes):
    axes = whole(axes)
    require(hasattr(x, "shape") and len(x.shape) >= axes)
    return Shapes({}, like(x, *x.shape[:-axes], math.prod(x.shape[-axes:])))


def norm(names, x):
    floating(x)
    return Shapes(dict.fromkeys(names, x.shape[-1:]), x)


def batch_norm(x, train, momentum, eps):
    real(momentum, 1)
    real(eps, 3e38)
    floating(x)
    require(not train or math.prod(x.shape[:-1]) >= 2)
    return norm(("scale", "bias"), x)._replace(state={"mean": x.shape[-1:], "var": x.shape[-1:]})


def layer_norm(x, train, eps):
    real(eps, 3e38)
    return norm(("scale", "bias"), x)


def rms_norm(x, train, eps):
    real(eps, 3e38)
    return norm(("scale",), x)


def group_norm(x, train, groups, eps, axes):
    groups, axes = whole(groups), whole(axes, 0)
    real(eps, 3e38)
    floating(x, axes + 1)
    require(x.shape[-1] % groups == 0)
    return norm(("scale", "bias"), x)


def dropout(x, train, rate):
    real(rate, 1)
    floating(x, 0)
    return Shapes({}, x)


def prelu(x, train):
    as_parameters(x)
    return Shapes({"slope": x.shape[-1:]}, x)


def embed(x, train, vocabulary, features):
    vocabulary, features = whole(vocabulary), whole(features)
    require(hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.integer))
    return Shapes({"table": (vocabulary, features)}, jax.ShapeDtypeStruct((*x.shape, features), jnp.float32))


def positions(x, train, cache):
    cache = None if cache is None else whole(cache)
    floating(x, 2)
    require(cache is None or (x.shape[-2] <= cache and not train))
    return Shapes({}, x, {} if cache is None else {"position": ()})


def learned_positions(x, train, length, cache):
    length = whole(length)
    shapes = positions(x, train, cache)
    as_parameters(x, 2)
    require(x.shape[-2] <= length and (cache is None or cache <= length))
    return shapes._replace(params={"table": (length, x.shape[-1])})


def recurrent(gates):
    def formula(x, train, features):
        features = whole(features)
        as_parameters(x, 2)
        wide = gates * features
        shapes = {"wx": (x.shape[-1], wide), "wh": (features, wide), "b": (wide,)}
        return Shapes(shapes, like(x, *x.shape[:-1], features))

    return formula


def jordan(x, train, features, outputs):
    features, outputs = whole(features), whole(outputs)
    as_parameters(x, 2)
    shapes = {"wx": (x.shape[-1], features), "wh": (outputs, features), "b": (features,)}
    return Shapes({**shapes, "wy": (features, outputs), "by": (outputs,)}, like(x, *x.shape[:-1], outputs))


def bidirectional(x, train, features):
    params, y, _ = recurrent(3)(x, train, features)
    both = {f"{way}/{name}": shape for way in ("forward", "backward") for name, shape in params.items()}
    return Shapes(both, like(y, *y.shape[:-1], 2 * y.shape[-1]))


def stateful(x, train, features):
    params, y, _ = recurrent(4)(x, train, features)
    carry = (*y.shape[:-2], y.shape[-1])
    return Shapes(params, y, {"final/0": carry, "final/1": carry})


def attention(x, train, heads, kv_heads, causal, rotary, cache):
    heads = whole(heads)
    kv_heads = heads if kv_heads is None else whole(kv_heads)
    require(heads % kv_heads == 0 and all(isinstance(flag, bool | np.bool_) for flag in (causal, rotary)))
    cache = None if cache is None else whole(cache)
    require(cache is None or causal)
    as_parameters(x, 2)
    width = x.shape[-1]
    require(width > 0 and width % heads == 0 and not (rotary and width // heads % 2))
    require(cache is None or (x.shape[-2] <= cache and not train))
    wide = {"q": width, "k": kv_heads * width // heads, "v": kv_heads * width // heads, "out": width}
    params = {f"{name}/{part}": shape for name, n in wide.items() for part, shape in (("w", (width, n)), ("b", (n,)))}
    kept = (*x.shape[:-2], cache, kv_heads, width // heads)
    return Shapes(params, x, {} if cache is None else {"k": kept, "v": kept, "position": ()})


def graph_of(x, axes=(2,)):
    require(isinstance(x, jnn.Graph) and len(x.nodes.shape) in axes and len(x.senders.shape) == 1)
    ends = [x.senders, x.receivers] + ([] if x.sizes is None else [x.sizes])
    require(all(len(end.shape) == 1 and jnp.issubdtype(end.dtype, jnp.integer) for end in ends))
    require(x.senders.shape == x.receivers.shape)


def graph_conv(x, train, features, aggregate):
    features = whole(features)
    require(isinstance(aggregate, str) and aggregate in ("symmetric", "sum", "mean", "max"))
    graph_of(x)
    return dense(x.nodes, train, features)


def graph_attention(x, train, features, heads, merge, rate):
    features, heads = whole(features), whole(heads)
    require(isinstance(merge, str) and merge in ("concat", "mean"))
    if rate is not None:
        real(rate, 1)
    graph_of(x)
    as_parameters(x.nodes)
    n, width = x.nodes.shape
    outputs = features * heads if merge == "concat" else features
    parts = {"w": (width, heads * features), "attend_from": (heads, features), "attend_to": (heads, features)}
    return Shapes({**parts, "b": (outputs,)}, like(x.nodes, n, outputs))


def on_nodes(x, train, features):
    graph_of(x, (1, 2, 3))
    shapes = dense(x.nodes, train, features)
    require(shapes.y.shape[:1] == x.nodes.shape[:1])
    return shapes


def pool_nodes(x, train, how):
    require(isinstance(how, str) and how in ("mean", "sum", "max"))
    graph_of(x)
    floating(x.nodes)
    return Shapes({}, like(x.nodes, *(() if x.sizes is None else x.sizes.shape), x.nodes.shape[1]))


def of_dense(x, train, features, rate):
    real(rate, 1)
    return dense(x, train, features)


def repeated(x, train, features, n):
    n = whole(n)
    params, y, _ = dense(x, train, features)
    require(y.shape == x.shape)
    return Shapes({name: (n, *shape) for name, shape in params.items()}, y)


def precise(x, train, features, compute):
    require(isinstance(compute, str) and compute in ("float32", "bfloat16", "float16"))
    features = whole(features)
    floating(x)
    return dense(jax.ShapeDtypeStruct(x.shape, jnp.float32), train, features)


def branch(x, train, first, second, merge):
    require(isinstance(merge, str) and merge in ("concat", "sum"))
    (one, y, _), (two, z, _) = dense(x, train, first), dense(x, train, second)
    require(merge == "concat" or y.shape == z.shape)
    width = y.shape[-1] + z.shape[-1] if merge == "concat" else y.shape[-1]
    named = {f"dense_{i}/{name}": shape for i, part in enumerate((one, two)) for name, shape in part.items()}
    return Shapes(named, like(y, *y.shape[:-1], width))


def residual(x, train, features):
    params, y, _ = dense(x, train, features)
    require(y.shape == x.shape)
    return Shapes({f"layer/{name}": shape for name, shape in params.items()}, y)


def serial(x, train, first, second):
    (one, y, _), second = dense(x, train, first), whole(second)
    two, z, _ = dense(y, train, second)
    return Shapes({f"dense_{i}/{name}": shape for i, p in ((0, one), (2, two)) for name, shape in p.items()}, z)


LITTLE = st.integers(1, 3)  # most of the time, as the lists must be of one length
WINDOW = LITTLE | LITTLE | SIZE | st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)
PADDING = (
    st.sampled_from(["SAME", "VALID"])
    | st.sampled_from(["SAME", "VALID"])
    | st.integers(0, 2)
    | st.lists(st.tuples(*[st.integers(0, 3)] * 2), max_size=3)
)
STEP = LITTLE | LITTLE | LITTLE | st.lists(st.integers(1, 3), min_size=1, max_size=3) | st.just(2**31 - 1)
SLIDE = {"window": WINDOW, "stride": STEP, "padding": PADDING}
CONV = {**SLIDE, "features": SIZE, "dilation": STEP, "groups": st.sampled_from([1, 1, 2, 3])}
SLIDE_OR_TILE = {**SLIDE, "stride": st.none() | STEP}
CACHE = st.none() | SIZE
SEQUENCES = arrays(axes=4)
IMAGES = arrays(least=2)
FEATURES = {"features": SIZE}

ROWS = [
    Row("dense", jnn.dense, FEATURES, dense, arrays()),
    Row("maxout", jnn.maxout, {**FEATURES, "pieces": st.integers(1, 4)}, maxout, arrays()),
    Row("conv", jnn.conv, CONV, convolution(slid), IMAGES),
    Row("conv_transpose", jnn.conv_transpose, CONV, convolution(slid_back), IMAGES),
    Row("max_pool", jnn.max_pool, SLIDE_OR_TILE, pool, IMAGES),
    Row("avg_pool", jnn.avg_pool, SLIDE_OR_TILE, pool, IMAGES),
    Row("global_avg_pool", jnn.global_avg_pool, {"axes": st.integers(1, 4)}, global_pool, IMAGES),
    Row("global_max_pool", jnn.global_max_pool, {"axes": st.integers(1, 4)}, global_pool, IMAGES),
    Row("flatten", jnn.flatten, {"axes": st.integers(1, 4)}, flatten, arrays()),
    Row("batch_norm", jnn.batch_norm, {"momentum": SHARE, "eps": EPS}, batch_norm, arrays()),
    Row("layer_norm", jnn.layer_norm, {"eps": EPS}, layer_norm, arrays()),
    Row("rms_norm", jnn.rms_norm, {"eps": EPS}, rms_norm, arrays()),
    Row("group_norm", jnn.group_norm, {"groups": SIZE, "eps": EPS, "axes": st.integers(0, 4)}, group_norm, arrays()),
    Row("dropout", jnn.dropout, {"rate": SHARE}, dropout, arrays()),
    Row("prelu", jnn.prelu, {}, prelu, arrays()),
    Row("embed", jnn.embed, {"vocabulary": SIZE, **FEATURES}, embed, arrays(TOKENS)),
    Row("learned_positions", jnn.learned_positions, {"length": SIZE, "cache": CACHE}, learned_positions, SEQUENCES),
    Row("sinusoidal_positions", jnn.sinusoidal_positions, {"cache": CACHE}, positions, SEQUENCES),
    Row("rnn", jnn.rnn, FEATURES, recurrent(1), SEQUENCES),
    Row("lstm", jnn.lstm, FEATURES, recurrent(4), SEQUENCES),
    Row("gru", jnn.gru, FEATURES, recurrent(3), SEQUENCES),
    Row("jordan", jnn.jordan, {**FEATURES, "outputs": SIZE}, jordan, SEQUENCES),
    Row("bidirectional", lambda features: jnn.bidirectional(jnn.gru(features)), FEATURES, bidirectional, SEQUENCES, ("gru",)),
    Row(
        "stateful",
        lambda features: jnn.stateful(jnn.lstm(features, return_state=True)),
        FEATURES,
        stateful,
        SEQUENCES,
        ("lstm",),
    ),
    Row(
        "attention",
        jnn.attention,
        {
            "heads": st.integers(1, 4),
            "kv_heads": st.none() | st.integers(1, 2),
            "causal": st.booleans(),
            "rotary": st.booleans(),
            "cache": CACHE,
        },
        attention,
        SEQUENCES,
    ),
    Row(
        "graph_conv",
        jnn.graph_conv,
        {**FEATURES, "aggregate": st.sampled_from(["symmetric", "sum", "mean", "max"])},
        graph_conv,
        graphs(),
    ),
    Row(
        "graph_attention",
        jnn.graph_attention,
        {**FEATURES, "heads": SIZE, "merge": st.sampled_from(["concat", "mean"]), "rate": st.none() | SHARE},
        graph_attention,
        graphs(),
    ),
    Row("on_nodes", lambda features: jnn.on_nodes(jnn.dense(features)), FEATURES, on_nodes, graphs(), ("dense",)),
    Row("pool_nodes", jnn.pool_nodes, {"how": st.sampled_from(["mean", "sum", "max"])}, pool_nodes, graphs()),
    Row(
        "stochastic_depth",
        lambda features, rate: jnn.stochastic_depth(jnn.dense(features), rate),
        {**FEATURES, "rate": SHARE},
        of_dense,
        arrays(),
        ("dense",),
    ),
    Row(
        "repeat",
        lambda features, n: jnn.repeat(jnn.dense(features), n),
        {**FEATURES, "n": SIZE},
        repeated,
        arrays(),
        ("dense",),
    ),
    Row(
        "precision",
        lambda features, compute: jnn.precision(jnn.dense(features), compute),
        {**FEATURES, "compute": st.sampled_from(["float32", "bfloat16", "float16"])},
        precise,
        arrays(),
        ("dense",),
    ),
    Row(
        "branch",
        lambda first, second, merge: jnn.branch(jnn.dense(first), jnn.dense(second), merge=merge),
        {"first": SIZE, "second": SIZE, "merge": st.sampled_from(["concat", "sum"])},
        branch,
        arrays(),
        ("dense",),
    ),
    Row("residual", lambda features: jnn.residual(jnn.dense(features)), FEATURES, residual, arrays(), ("layer", "dense")),
    Row("remat", lambda features: jnn.remat(jnn.dense(features)), FEATURES, dense, arrays(), ("dense",)),
    Row(
        "serial",
        lambda first, second: jnn.serial(jnn.dense(first), jax.nn.relu, jnn.dense(second)),
        {"first": SIZE, "second": SIZE},
        serial,
        arrays(),
        ("dense",),
    ),
]


def shapes_after(row: Row, arguments, x, train) -> Shapes | None:
    """What the formula says; None where the layer must refuse."""
    own = {name: value for name, value in arguments.items() if name in row.arguments}
    initializers = {name: value for name, value in arguments.items() if name not in own}
    if any(not callable(f) and (f is not None or (row.name, name) not in MAY_BE_NONE) for name, f in initializers.items()):
        return None
    try:
        shapes = row.formula(x, train, **own)
    except RefusedError:
        return None
    return shapes._replace(
        params={k: v for k, v in shapes.params.items() if k != "b" or initializers.get("b_init", 0) is not None}
    )


def shapes_of(tree) -> dict[str, tuple[int, ...]]:
    leaves, _ = jax.tree.flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves}


def or_own_error(row: Row, arguments, function, *args):
    """What is returned, or None where an error of jnn's own begins with the layer and, of an argument, names it."""
    try:
        return function(*args)
    except (TypeError, ValueError) as error:
        message = str(error)
        assert message.startswith((row.name, *row.layers, "forward")), message
        assert len(message) < 400
        if not isinstance(error, LayerError):
            inside = ("features",) * bool(row.layers)
            assert any(name in message for name in (*arguments, *inside)), message
        return None


def on_shapes(function, *args):
    """What is no array reaches the function as it is."""
    known = [all(hasattr(leaf, "dtype") for leaf in jax.tree.leaves(arg)) and arg is not None for arg in args]
    shapes = [arg for arg, is_known in zip(args, known, strict=True) if is_known]

    def call(*shapes):
        rest = iter(shapes)
        return function(*(next(rest) if is_known else arg for arg, is_known in zip(args, known, strict=True)))

    return jax.eval_shape(call, *shapes)


@pytest.mark.parametrize(
    "rows", [ROWS[:8], ROWS[8:16], ROWS[16:25], ROWS[25:]], ids=["windows", "arrays", "sequences", "layers"]
)
@given(data=st.data())
def test_a_layer_gives_the_shapes_of_its_formula_or_says_what_is_wrong(rows, data):
    row = data.draw(st.sampled_from(rows))
    arguments = data.draw(arguments_of(row))
    train = data.draw(st.booleans())
    xs = [data.draw(row.x), data.draw(st.sampled_from(NO_ARRAYS) | row.x)]
    xs += [xs.pop(0)] * data.draw(st.booleans())  # what is no array first, or not at all

    def expected(x):
        return shapes_after(row, arguments, x, train)

    layer = or_own_error(row, arguments, lambda: row.make(**arguments))
    first = expected(xs[0])
    if layer is None:
        assert all(expected(x) is None for x in xs)
        return
    init = or_own_error(row, arguments, on_shapes, layer.init, KEY, xs[0])
    assert init is not None or first is None
    if init is None:
        return
    params, state = init
    for x in xs:
        found = or_own_error(
            row,
            arguments,
            on_shapes,
            lambda params, state, x, key: layer.apply(params, state, x, key=key, train=train)[0],
            params,
            state,
            x,
            KEY,
        )
        wanted = expected(x)
        if wanted is not None and (wanted.params, wanted.state) == (shapes_of(params), shapes_of(state)):
            assert found is not None
            y = found.nodes if isinstance(found, jnn.Graph) else found
            assert (y.shape, y.dtype) == (wanted.y.shape, wanted.y.dtype)
        else:
            assert found is None
    if first is not None:
        assert (shapes_of(params), shapes_of(state)) == (first.params, first.state)


OF_A_LAYER = [jnn.serial, jnn.parallel, jnn.branch, jnn.residual, jnn.remat, jnn.precision, jnn.on_nodes, jnn.bidirectional]
OF_A_LAYER += [jnn.stateful, lambda layer: jnn.repeat(layer, 2), lambda layer: jnn.stochastic_depth(layer, 0.5)]


@given(st.sampled_from(OF_A_LAYER), JUNK)
def test_what_is_no_layer_is_refused(make, value):
    with pytest.raises(TypeError) as error:
        make(value)
    assert re.match(r"expected a Layer or a function of one array, got |\w+ is a module that holds its own", str(error.value))
    assert len(str(error.value)) < 400
