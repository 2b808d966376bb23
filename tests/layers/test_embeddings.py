import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jnn

from layer_properties import Case, LayerProperties, filled, untrained


def flax_embed(params, state, x):
    table = params["table"]
    return nn.Embed(*table.shape, param_dtype=table.dtype).apply({"params": {"embedding": table}}, x)


def tokens(shape, dtype, rng):
    return rng.integers(0, 7, shape)


def waves(time, width):
    """Vaswani et al. 2017, section 3.5, entry by entry."""
    table = np.zeros((time, width))
    for t in range(time):
        for column in range(width):
            angle = t / 10000 ** (2 * (column // 2) / width)
            table[t, column] = np.cos(angle) if column % 2 else np.sin(angle)
    return table


def plus_table(params, state, x):
    return x + params["table"][: x.shape[-2]]


def plus_waves(params, state, x):
    return x + waves(*x.shape[-2:]).astype(x.dtype)


CASES = [
    Case("embed", lambda: jnn.embed(7, 3), (4,), flax_embed, has_params=True, input=tokens, differentiable=False),
    Case("learned_positions", lambda: jnn.learned_positions(9), (4, 3), plus_table, has_params=True),
    Case("sinusoidal_positions", jnn.sinusoidal_positions, (4, 6), plus_waves),
    Case(
        "learned_positions_cache",
        lambda: untrained(jnn.learned_positions(20, cache=12)),
        (4, 3),
        plus_table,
        has_params=True,
        fresh_state=True,
    ),
]


class TestEveryEmbedding(LayerProperties):
    cases = CASES


@pytest.mark.parametrize(
    ("layer", "x", "shape", "std"),
    [
        (jnn.embed(300, 16), jnp.ones((2, 5), int), (300, 16), 1 / 4),
        (jnn.learned_positions(300), jnp.ones((2, 5, 16)), (300, 16), 0.02),
    ],
    ids=["embed", "learned_positions"],
)
def test_tables_are_drawn_from_normal_numbers(layer, x, shape, std, key):
    params, state = layer.init(key, x)
    assert state == {}
    assert {name: (leaf.shape, leaf.dtype) for name, leaf in params.items()} == {"table": (shape, jnp.float32)}
    table = np.ravel(params["table"])
    assert abs(table.mean()) < 5 * std / np.sqrt(table.size)
    np.testing.assert_allclose(table.std(), std, rtol=5 / np.sqrt(2 * table.size))
    assert np.max(np.abs(table)) > 3 * std  # not truncated


def test_tables_take_initializers_of_their_own(key):
    ones = jnn.initializers.ones
    params, _ = jnn.embed(3, 2, table_init=ones).init(key, jnp.ones(4, int))
    np.testing.assert_array_equal(params["table"], 1)
    # numpy's own integers have 64 bits, of which jax would warn
    np.testing.assert_array_equal(jnn.embed(3, 2).apply(params, {}, np.zeros(4, np.int64))[0], 1)
    np.testing.assert_array_equal(jnn.learned_positions(3, table_init=ones).init(key, jnp.ones((2, 2)))[0]["table"], 1)


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8, jnp.int16, jnp.int32, jnp.uint32, jnp.int64, jnp.uint64])
def test_a_token_that_there_is_not_gives_nan_and_no_gradient(dtype, x64):
    numbers = jnp.iinfo(dtype)
    vocabulary = 300
    given = [0, 1, min(299, numbers.max), numbers.max, numbers.max - 1, numbers.min, numbers.min + 1, 2**32 + 1, -1, -300]
    given = sorted({n for n in given if numbers.min <= n <= numbers.max})
    table = jnp.arange(2.0 * vocabulary).reshape(vocabulary, 2)
    layer = jnn.embed(vocabulary, 2)
    x = jnp.asarray(np.array(given, np.dtype(dtype)))

    def total(params):
        y, _ = layer.apply(params, {}, x)
        return jnp.nansum(y), y

    (_, y), gradient = jax.value_and_grad(total, has_aux=True)({"table": table})
    counts = np.zeros((vocabulary, 2))
    for n, row in zip(given, y, strict=True):
        inside = 0 <= n < vocabulary
        np.testing.assert_array_equal(row, table[n] if inside else [np.nan, np.nan])
        counts[n if inside else 0] += inside
    np.testing.assert_array_equal(gradient["table"], counts)


@pytest.mark.parametrize(
    ("x", "got"),
    [(jnp.ones((2, 3)), "float32 (2, 3)"), (jnp.ones(3, bool), "bool (3,)"), ((1, 2), "a tuple of 2"), (1, "int 1")],
    ids=["floats", "booleans", "tuple", "number"],
)
def test_embed_takes_integers_only(x, got, key, raises):
    layer = jnn.embed(7, 3)
    params, _ = layer.init(key, jnp.ones(3, int))
    with raises(ValueError, f"embed: expected integers (...), got {got}"):
        layer.init(key, x)
    with raises(ValueError, f"embed: expected integers (...), got {got}"):
        layer.apply(params, {}, x)


def test_embed_refuses_foreign_parameters_and_a_missing_key(raises):
    with raises(ValueError, "embed: expected parameters table, got ['embedding']"):
        jnn.embed(7, 3).apply({"embedding": jnp.ones((7, 3))}, {}, jnp.ones(3, int))
    for shape in [(9, 3), (2, 7, 3)]:
        with raises(ValueError, f"embed: expected table (7, 3), got {shape}"):
            jnn.embed(7, 3).apply({"table": jnp.ones(shape)}, {}, jnp.ones(3, int))
    with raises(ValueError, "embed: init needs a key"):
        jnn.embed(7, 3).init(None, jnp.ones(3, int))


POSITIONS = [lambda cache=None: jnn.learned_positions(8, cache=cache), jnn.sinusoidal_positions]


@pytest.mark.parametrize("make", POSITIONS, ids=["learned", "sinusoidal"])
@pytest.mark.parametrize("chunks", [(1,) * 6, (6,), (2, 1, 3)], ids=str)
def test_decoding_positions_equals_the_full_pass(make, chunks, key):
    x = jax.random.normal(key, (2, 6, 5))
    layer, decoder = make(), make(cache=6)
    params = filled(layer.init(key, x)[0])
    expected, _ = layer.apply(params, {}, x)
    made, state = decoder.init(key, x)
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, params)
    step = jax.jit(decoder.apply)
    ys, start = [], 0
    for count in chunks:
        y, state = step(params, state, x[:, start : start + count])
        ys.append(y)
        start += count
    np.testing.assert_allclose(jnp.concatenate(ys, 1), expected, rtol=1e-6)
    assert state == {"position": 6}


@pytest.mark.parametrize("make", POSITIONS, ids=["learned", "sinusoidal"])
def test_past_the_end_positions_are_nan(make, key):
    x = jax.random.normal(key, (2, 4, 5))
    decoder = make(cache=5)
    params, state = decoder.init(key, x)
    expected, _ = make().apply(params, {}, jnp.pad(x, ((0, 0), (4, 0), (0, 0))))
    _, state = decoder.apply(params, state, x)
    y, state = decoder.apply(params, state, x)
    np.testing.assert_allclose(y[:, 0], expected[:, 4], rtol=1e-6)
    assert np.all(np.isnan(y[:, 1:]))
    assert np.all(np.isnan(decoder.apply(params, state, x)[0]))


@pytest.mark.parametrize("make", POSITIONS, ids=["learned", "sinusoidal"])
def test_the_decoding_twins_of_positions_say_what_they_cannot_do(make, key, raises):
    layer = make(cache=4)
    kind = "learned_positions" if make is POSITIONS[0] else "sinusoidal_positions"
    params, state = layer.init(key, jnp.ones((4, 5)))
    with raises(ValueError, f"{kind}: with a cache it only decodes: train it without one, the parameters are the same"):
        layer.apply(params, state, jnp.ones((4, 5)), train=True)
    with raises(ValueError, f"{kind}: expected at most 4 steps, got 6 in (6, 5)"):
        layer.apply(params, state, jnp.ones((6, 5)))
    with raises(ValueError, f"{kind}: expected state position, got none"):
        layer.apply(params, {}, jnp.ones((4, 5)))


def test_positions_say_what_does_not_fit(key, raises):
    learned = jnn.learned_positions(4)
    params, _ = learned.init(key, jnp.ones((4, 5)))
    with raises(ValueError, "learned_positions: expected at most 4 steps, got 6 in (2, 6, 5)"):
        learned.apply(params, {}, jnp.ones((2, 6, 5)))
    with raises(ValueError, "learned_positions: expected 5 features in the last axis, got (4, 3)"):
        learned.apply(params, {}, jnp.ones((4, 3)))
    with raises(ValueError, "learned_positions: expected float32 input, as the parameters are, got bfloat16: cast one of them"):
        learned.apply(params, {}, jnp.ones((4, 5), jnp.bfloat16))
    with raises(ValueError, "learned_positions: expected table (4, features), got (9, 5)"):
        learned.apply({"table": jnp.ones((9, 5))}, {}, jnp.ones((4, 5)))
    with raises(ValueError, "learned_positions: cache=9 is longer than length=4"):
        jnn.learned_positions(4, cache=9)
    with raises(ValueError, "learned_positions: cache must be at least 1, got 0"):
        jnn.learned_positions(4, cache=0)
    for kind, layer in (("learned_positions", learned), ("sinusoidal_positions", jnn.sinusoidal_positions())):
        with raises(ValueError, f"{kind}: expected floating-point input (..., time, features), got int32 (4, 5)"):
            layer.init(key, jnp.ones((4, 5), int))
        with raises(ValueError, f"{kind}: expected floating-point input (..., time, features), got float32 (5,)"):
            layer.init(key, jnp.ones(5))


def test_sinusoidal_positions_turn_by_one_angle_a_step():
    """sin and cos of one frequency are a point on a circle: from t to t + s it turns by the same angle whatever t."""
    y, _ = jnn.sinusoidal_positions().apply({}, {}, jnp.zeros((12, 8)))
    points = jax.lax.complex(y[:, 1::2], y[:, ::2])
    turns = points[3:] / points[:-3]
    np.testing.assert_allclose(turns, jnp.broadcast_to(turns[0], turns.shape), rtol=1e-5)


@pytest.mark.parametrize("width", [5, 8])
def test_late_sinusoidal_positions_keep_their_digits(width):
    y, _ = jnn.sinusoidal_positions(cache=10003).apply({}, {"position": jnp.int32(10000)}, jnp.zeros((3, width)))
    np.testing.assert_allclose(y, waves(10003, width)[10000:], atol=1e-5)
