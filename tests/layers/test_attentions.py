import re
import types

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jnn
from jnn.layers.mixtures import attend_fused, attend_plainly, visible_steps

from layer_properties import Case, LayerProperties, filled, untrained


def flax_attention(heads, *, causal=False, mask=None):
    """By flax, which has no groups: heads of k and v are repeated instead."""

    def apply(params, state, x):
        queries, memory = x if isinstance(x, tuple) else (x, x)
        width = queries.shape[-1]
        size = width // heads

        def by_heads(part):
            found = part["w"].shape[1] // size
            return {
                "kernel": jnp.repeat(part["w"].reshape(-1, found, size), heads // found, axis=1),
                "bias": jnp.repeat(part["b"].reshape(found, size), heads // found, axis=0),
            }

        weights = {long: by_heads(params[short]) for long, short in (("query", "q"), ("key", "k"), ("value", "v"))}
        weights["out"] = {"kernel": params["out"]["w"].reshape(heads, size, width), "bias": params["out"]["b"]}
        seen = nn.make_causal_mask(queries[..., 0]) if causal else None if mask is None else mask[..., None, :, :]
        layer = nn.MultiHeadDotProductAttention(heads, param_dtype=queries.dtype)
        return layer.apply({"params": weights}, queries, memory, mask=seen)

    return apply


def rotary_attention(heads):
    """Causal, by the formula, with complex numbers: multiplied by exp(i t / 10000^(2j / size)), they turn."""

    def apply(params, state, x):
        size = x.shape[-1] // heads
        time = x.shape[-2]
        q, k, v = (x @ params[name]["w"] + params[name]["b"] for name in "qkv")
        turn = jnp.exp(1j * jnp.arange(time)[:, None] / 10000.0 ** (2 * jnp.arange(size // 2) / size))

        def turned(a):
            a = a.reshape(*a.shape[:-1], -1, size)
            return (a[..., : size // 2] + 1j * a[..., size // 2 :]) * turn[:, None]

        q, k = turned(q), turned(k)
        group = q.shape[-2] // k.shape[-2]
        v = v.reshape(*v.shape[:-1], -1, size)
        ys = []
        for head in range(heads):
            a, b = q[..., head, :], k[..., head // group, :]
            scores = jnp.real(jnp.einsum("...qd,...kd->...qk", a, jnp.conj(b))) / size**0.5
            scores = jnp.where(jnp.tri(time, dtype=bool), scores, -jnp.inf)
            shares = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
            shares = shares / jnp.sum(shares, axis=-1, keepdims=True)
            ys.append(shares @ v[..., head // group, :])
        return jnp.concatenate(ys, axis=-1) @ params["out"]["w"] + params["out"]["b"]

    return apply


def queries_and_memory(shape, dtype, rng):
    *leading, _, _ = shape
    return rng.normal(size=shape).astype(dtype), rng.normal(size=(*leading, 5, 6)).astype(dtype)


CASES = [
    Case("attention", lambda: jnn.attention(2), (3, 4), flax_attention(2), has_params=True),
    Case("memory", lambda: jnn.attention(2), (3, 4), flax_attention(2), has_params=True, input=queries_and_memory),
    Case(
        "grouped_causal",
        lambda: jnn.attention(4, kv_heads=2, causal=True),
        (3, 8),
        flax_attention(4, causal=True),
        has_params=True,
    ),
    Case(
        "rotary_causal",
        lambda: jnn.attention(2, causal=True, rotary=True),
        (3, 8),
        rotary_attention(2),
        has_params=True,
    ),
    Case(
        "cache",
        lambda: untrained(jnn.attention(2, kv_heads=1, causal=True, rotary=True, cache=10)),
        (3, 8),
        rotary_attention(2),
        has_params=True,
        fresh_state=True,
        leading=False,  # the state has those of the x given to init
    ),
]


class TestEveryAttention(LayerProperties):
    cases = CASES


def parameters(layer, x, dtype=np.float32):
    return filled(jax.eval_shape(layer.init, jax.random.key(0), x)[0], dtype)


def test_attention_draws_each_matrix_with_the_variance_of_its_inputs_and_no_biases(key):
    params, state = jnn.attention(4, kv_heads=2).init(key, (jnp.ones((2, 3, 80)), jnp.ones((2, 5, 60))))
    assert state == {}
    shapes = {"q": (80, 80), "k": (60, 40), "v": (60, 40), "out": (80, 80)}
    assert {name: part["w"].shape for name, part in params.items()} == shapes
    for name, part in params.items():
        assert set(part) == {"w", "b"}
        w = np.ravel(part["w"])
        np.testing.assert_allclose(w.var(), 1 / shapes[name][0], rtol=5 * np.sqrt(2 / w.size))
        np.testing.assert_array_equal(part["b"], np.zeros(shapes[name][1]))
    assert np.any(params["k"]["w"] != params["v"]["w"])


def test_attention_takes_initializers_of_its_own(key):
    twos, ones = jnn.initializers.constant(2.0), jnn.initializers.ones
    params, _ = jnn.attention(2, w_init=twos, b_init=ones).init(key, jnp.ones((3, 4)))
    assert {(name, float(part["w"].mean()), float(part["b"].mean())) for name, part in params.items()} == {
        (name, 2.0, 1.0) for name in ("q", "k", "v", "out")
    }
    params, _ = jnn.attention(2, w_init=twos, out_init=ones).init(key, jnp.ones((3, 4)))
    assert [float(params[name]["w"].mean()) for name in ("q", "k", "v", "out")] == [2.0, 2.0, 2.0, 1.0]


@pytest.mark.parametrize("causal", [False, True])
def test_grouped_heads_are_those_of_jax(causal, key):
    layer = jnn.attention(6, kv_heads=2, causal=causal)
    x = jax.random.normal(key, (2, 5, 24))
    params = parameters(layer, x)
    q, k, v = (
        (x @ params[name]["w"] + params[name]["b"]).reshape(2, 5, count, 4) for name, count in (("q", 6), ("k", 2), ("v", 2))
    )
    y = jax.nn.dot_product_attention(q, k, v, is_causal=causal).reshape(2, 5, 24)
    expected = y @ params["out"]["w"] + params["out"]["b"]
    np.testing.assert_allclose(layer.apply(params, {}, x)[0], expected, rtol=1e-5, atol=1e-5)


def test_attention_equals_torch(key):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    layer = jnn.attention(2, causal=True)
    x = jax.random.normal(key, (3, 5, 8))
    params = parameters(layer, x)
    theirs = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    stacked = {kind: np.concatenate([np.asarray(params[name][kind]).T for name in "qkv"]) for kind in "wb"}
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.tensor(stacked["w"]))
        theirs.in_proj_bias.copy_(torch.tensor(stacked["b"]))
        theirs.out_proj.weight.copy_(torch.tensor(np.asarray(params["out"]["w"]).T))
        theirs.out_proj.bias.copy_(torch.tensor(np.asarray(params["out"]["b"])))
        given = torch.tensor(np.asarray(x))
        hidden = torch.triu(torch.ones(5, 5, dtype=torch.bool), diagonal=1)
        expected = theirs(given, given, given, attn_mask=hidden, need_weights=False)[0].numpy()
    np.testing.assert_allclose(layer.apply(params, {}, x)[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"rotary": True}, {"kv_heads": 1}], ids=str)
def test_a_causal_step_depends_on_itself_and_those_before_only(options, key):
    layer = jnn.attention(2, causal=True, **options)
    x = jax.random.normal(key, (6, 8))
    params = parameters(layer, x)
    slopes = jax.jit(jax.jacobian(lambda x: layer.apply(params, {}, x)[0]))(x)  # (time, 8, time, 8)
    depends = np.any(slopes != 0, axis=(1, 3))
    np.testing.assert_array_equal(depends, np.tri(6, dtype=bool))


def test_rotary_scores_know_distances_only(key):
    layer = jnn.attention(2, rotary=True)
    x = jax.random.normal(key, (9, 8))
    params = parameters(layer, x)
    mask = jnp.broadcast_to(jnp.arange(9) >= 4, (9, 9))
    later, _ = layer.apply(params, {}, x, mask=mask)
    first, _ = layer.apply(params, {}, x[4:])
    np.testing.assert_allclose(later[4:], first, rtol=1e-4, atol=1e-5)
    # and they do know them: without rotary what is in another order gives the same in that order
    order = jnp.array([2, 0, 1, 3])
    for rotary in (True, False):
        apply = jnn.attention(2, rotary=rotary).apply
        gap = jnp.max(jnp.abs(apply(params, {}, x[order])[0] - apply(params, {}, x[:4])[0][order]))
        assert (gap > 1e-2) == rotary


LENGTHS = (0, 1, 4, 6)


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"causal": True, "rotary": True, "kv_heads": 1}], ids=str)
def test_lengths_give_what_each_sequence_gives_alone(options, key):
    layer = jnn.attention(2, **options)
    x_key, towards_key = jax.random.split(key)
    x = jax.random.normal(x_key, (4, 6, 8))
    towards = jax.random.normal(towards_key, x.shape)
    params = parameters(layer, x)
    counts = (jnp.arange(6) < jnp.asarray(LENGTHS)[:, None])[..., None]

    def together(params, x, lengths):
        y, _ = layer.apply(params, {}, x, lengths=lengths)
        return jnp.sum(y * towards), y

    def alone(params, x):
        ys = [layer.apply(params, {}, x[i, :n])[0] for i, n in enumerate(LENGTHS)]
        ys = jnp.stack([jnp.pad(y, ((0, 6 - len(y)), (0, 0))) for y in ys])
        return jnp.sum(ys * towards), ys

    expected = jax.jit(jax.value_and_grad(alone, (0, 1), has_aux=True))(params, x)
    # what is in the padding does not matter, not even where it is not a number
    padded = jnp.where(counts, x, jnp.nan)
    found = jax.jit(jax.value_and_grad(together, (0, 1), has_aux=True))(params, padded, jnp.asarray(LENGTHS))
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-4)
    y = found[0][1]
    np.testing.assert_array_equal(jnp.where(counts, 0, y), 0)
    np.testing.assert_array_equal(jnp.where(counts, 0, found[1][1]), 0)


def test_lengths_of_queries_and_of_memory(key):
    layer = jnn.attention(2)
    x = jax.random.normal(key, (3, 4, 8)), jax.random.normal(jax.random.fold_in(key, 1), (3, 5, 6))
    params = parameters(layer, x)
    apply = jax.jit(layer.apply)
    memory_lengths = np.array([5, 2, 0])
    y, _ = apply(params, {}, x, lengths=(None, memory_lengths))
    for i in range(2):
        alone, _ = apply(params, {}, (x[0][i], x[1][i, : memory_lengths[i]]))
        np.testing.assert_allclose(y[i], alone, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(y[2], 0)
    both, _ = apply(params, {}, x, lengths=(np.array([1, 4, 4]), memory_lengths))
    np.testing.assert_array_equal(both, y.at[0, 1:].set(0))
    only, _ = apply(params, {}, x, lengths=(np.array([1, 4, 4]), None))
    np.testing.assert_array_equal(only[1:], apply(params, {}, x)[0][1:])
    np.testing.assert_array_equal(only[0, 1:], 0)


def test_a_memory_of_no_steps_gives_zeros(key):
    layer = jnn.attention(2)
    x = jnp.ones((3, 4, 8)), jnp.ones((3, 0, 6))
    params = parameters(layer, x)
    y, _ = layer.apply(params, {}, x)
    np.testing.assert_array_equal(y, np.zeros((3, 4, 8)))
    gradient = jax.grad(lambda p: jnp.sum(layer.apply(p, {}, x)[0]))(params)
    chex.assert_trees_all_equal(gradient, jax.tree.map(jnp.zeros_like, params))


@pytest.mark.parametrize("leading", [(), (3,)], ids=["one mask", "one for each"])
def test_a_mask_says_who_may_look_at_whom(leading, key):
    layer = jnn.attention(2)
    x = jax.random.normal(key, (3, 5, 8))
    params = parameters(layer, x)
    mask = np.random.default_rng(0).random((*leading, 5, 5)) < 0.5
    mask[..., 0] = True
    oracle = flax_attention(2, mask=mask)

    def value(apply):
        return jax.jit(jax.value_and_grad(lambda p, x: jnp.sum(jnp.sin(apply(p, x))), (0, 1)))(params, x)

    with jax.numpy_dtype_promotion("standard"):
        expected = value(lambda p, x: oracle(p, {}, x))
    chex.assert_trees_all_close(value(lambda p, x: layer.apply(p, {}, x, mask=mask)[0]), expected, rtol=1e-4, atol=1e-4)
    causal = jnn.attention(2, causal=True).apply(params, {}, x, mask=mask)[0]
    both = layer.apply(params, {}, x, mask=mask & np.tri(5, dtype=bool))[0]
    np.testing.assert_allclose(causal, both, rtol=1e-5, atol=1e-6)


def test_a_step_that_may_look_at_nothing_gives_zeros_and_zero_gradients(key):
    layer = jnn.attention(2)
    x = jax.random.normal(key, (3, 8))
    params = parameters(layer, x)
    mask = jnp.array([[True, False, True], [False, False, False], [True, False, True]])

    def apply(params, x):
        return layer.apply(params, {}, x, mask=mask)[0]

    y, pull = jax.vjp(apply, params, x)
    np.testing.assert_array_equal(y[1], 0)
    kept = jnp.array([0, 2])
    alone = layer.apply(params, {}, x[kept])[0]
    np.testing.assert_allclose(y[kept], alone, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_equal(pull(jnp.zeros_like(y).at[1].set(1.0)), jax.tree.map(jnp.zeros_like, (params, x)))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(pull(jnp.ones_like(y))))


OPTIONS = [{}, {"rotary": True, "kv_heads": 2}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("chunks", [(1,) * 7, (2, 5)], ids=str)
def test_decoding_equals_the_full_pass(options, chunks, key):
    x = jax.random.normal(key, (2, 3, 7, 16))
    layer, decoder = (jnn.attention(4, causal=True, cache=cache, **options) for cache in (None, 9))
    params = jax.tree.map(lambda a: a / 4, parameters(layer, x))  # as large as after init: y is about 1
    expected, _ = jax.jit(layer.apply)(params, {}, x)
    made, state = decoder.init(key, x[..., :1, :])
    step = jax.jit(decoder.apply)
    chex.assert_trees_all_equal_shapes_and_dtypes(made, params)
    assert state["k"].shape == (2, 3, 9, options.get("kv_heads", 4), 4)
    ys, start = [], 0
    for count in chunks:
        y, state = step(params, state, x[..., start : start + count, :])
        ys.append(y)
        start += count
        assert state["position"] == start
    np.testing.assert_allclose(jnp.concatenate(ys, axis=-2), expected, rtol=1e-5, atol=1e-5)


def test_decoding_in_a_scan_compiles_once_and_equals_the_full_pass(key):
    x = jax.random.normal(key, (2, 6, 8))
    layer, decoder = (jnn.attention(2, causal=True, rotary=True, cache=cache) for cache in (None, 6))
    params = parameters(layer, x)
    _, state = decoder.init(key, x)
    expected, _ = layer.apply(params, {}, x)

    def step(state, x_t):
        y, state = decoder.apply(params, state, x_t)
        return state, y

    one_by_one = jnp.moveaxis(x[:, :, None], 1, 0)  # (time, 2, 1, 8)
    end, ys = jax.jit(lambda state: jax.lax.scan(step, state, one_by_one))(state)
    np.testing.assert_allclose(jnp.moveaxis(ys[:, :, 0], 0, 1), expected, rtol=1e-5, atol=1e-5)

    chex.clear_trace_counter()
    compiled = jax.jit(chex.assert_max_traces(step, n=1))
    for t in range(6):
        state, y = compiled(state, one_by_one[t])
        np.testing.assert_allclose(y[:, 0], expected[:, t], rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(state, end, rtol=1e-5, atol=1e-5)


def test_in_bfloat16_the_products_of_the_backward_pass_are_bfloat16(key):
    q, k, v, pull = jax.random.normal(key, (4, 2, 12, 3, 8)).astype(jnp.bfloat16)

    def gradients(*of):
        return jax.grad(
            lambda *of: jnp.sum((attend_plainly(*of, None) * pull.astype(of[0].dtype)).astype(jnp.float32)), (0, 1, 2)
        )(*of)

    operand = r"tensor<(?:\d+x)*(\w+)>"
    products = re.findall(rf"dot_general .*: \({operand}, {operand}\)", jax.jit(gradients).lower(q, k, v).as_text())
    assert set(products) == {("bf16", "bf16")}
    exact = gradients(*(a.astype(jnp.float32) for a in (q, k, v)))
    for found, expected in zip(gradients(q, k, v), exact, strict=True):
        error = jnp.linalg.norm(found.astype(jnp.float32) - expected) / jnp.linalg.norm(expected)
        assert error < float(jnp.finfo(jnp.bfloat16).eps)


def test_decoding_in_bfloat16_keeps_a_float32_cache(key):
    x = jax.random.normal(key, (2, 6, 8)).astype(jnp.bfloat16)
    layer, decoder = (jnn.attention(2, causal=True, cache=cache) for cache in (None, 6))
    params = parameters(layer, x, jnp.bfloat16)
    expected, _ = layer.apply(params, {}, x)
    _, state = decoder.init(key, x)
    before = jax.tree.map(lambda a: a.dtype, state)
    step = jax.jit(decoder.apply)
    first, state = step(params, state, x[:, :4])
    rest, state = step(params, state, x[:, 4:])
    assert jax.tree.map(lambda a: a.dtype, state) == before == {"k": jnp.float32, "v": jnp.float32, "position": jnp.int32}
    # the same products of the same bfloat16 numbers: what differs is the order of the sums, in one last digit of 8 bits
    found = jnp.concatenate([first, rest], 1)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), expected.astype(jnp.float32), rtol=2**-7, atol=2**-5)


def test_past_the_end_of_the_cache_the_output_is_nan_and_never_a_wrong_number(key):
    x = jax.random.normal(key, (2, 6, 8))
    decoder = jnn.attention(2, causal=True, rotary=True, cache=5)
    layer = jnn.attention(2, causal=True, rotary=True)
    params = parameters(layer, x)
    expected, _ = layer.apply(params, {}, x)
    _, state = decoder.init(key, x[:, :1])
    apply = jax.jit(decoder.apply)
    _, state = apply(params, state, x[:, :3])
    y, crossed = apply(params, state, x[:, 3:])
    np.testing.assert_allclose(y[:, :2], expected[:, 3:5], rtol=1e-5, atol=1e-5)
    assert np.all(np.isnan(y[:, 2:]))
    y, _ = apply(params, crossed, x[:, :1])
    assert np.all(np.isnan(y))


def test_softmax_is_computed_in_float32(key):
    x = jnp.ones((3, 8), jnp.bfloat16)
    layer = jnn.attention(2)
    params = parameters(layer, x, jnp.bfloat16)
    program = str(jax.make_jaxpr(lambda x: layer.apply(params, {}, x)[0])(x))
    assert re.findall(r":(\w+)\[[\d,]*\] = exp ", program) == ["f32"]


@pytest.mark.parametrize("mask", [None, "lengths"])
def test_no_mask_is_a_constant_of_the_program(mask, key):
    layer = jnn.attention(1, causal=True)
    x = jnp.ones((1, 301, 2))
    params, _ = layer.init(key, x)
    lengths = None if mask is None else jnp.array([300])
    compiled = jax.jit(lambda p, x: layer.apply(p, {}, x, lengths=lengths)[0]).lower(params, x).compile().as_text()
    constants = re.findall(r"= \w+\[([\d,]*)\]\S* constant\(", compiled)
    assert max(np.prod([int(n) for n in shape.split(",") if n], initial=1) for shape in constants) <= 301


@pytest.fixture
def cudnn(monkeypatch):
    """As if cuDNN were installed: enough to write down a program that calls it."""
    from jax._src.cudnn import fused_attention_stablehlo

    monkeypatch.setattr(fused_attention_stablehlo, "cuda_versions", types.SimpleNamespace(cudnn_get_version=lambda: 91000))


def calls_of_cudnn(f, *args, platform="cuda"):
    return jax.jit(f).trace(*args).lower(lowering_platforms=(platform,)).as_text().count("__cudnn$fmha")


def loss_of(layer, **extra):
    return lambda p, x: jnp.sum(layer.apply(p, {}, x, **extra)[0].astype(jnp.float32))


@pytest.mark.parametrize(
    ("dtype", "options", "lengths"),
    [
        (jnp.bfloat16, {}, None),
        (jnp.bfloat16, {"causal": True, "rotary": True, "kv_heads": 1}, (0, 5, 128)),
        (jnp.float16, {}, (0, 5, 128)),
    ],
    ids=["plain", "all", "float16"],
)
def test_on_a_gpu_the_fused_kernel_is_taken_forward_and_backward(cudnn, dtype, options, lengths):
    layer = jnn.attention(2, **options)
    x = jnp.ones((3, 128, 32), dtype)
    params = parameters(layer, x, dtype)
    lengths = None if lengths is None else jnp.asarray(lengths)
    loss = loss_of(layer, lengths=lengths)
    assert calls_of_cudnn(loss, params, x) == 1
    assert calls_of_cudnn(jax.grad(loss, (0, 1)), params, x) == 2
    assert calls_of_cudnn(loss, params, x, platform="cpu") == 0


def test_the_fused_kernel_works_under_every_vmap(cudnn):
    layer = jnn.attention(2)
    x = jnp.ones((3, 128, 32), jnp.bfloat16), jnp.ones((3, 256, 32), jnp.bfloat16)
    params = parameters(layer, x, jnp.bfloat16)
    twice = lambda tree: jax.tree.map(lambda a: jnp.stack([a, a]), tree)

    def gradient(params, queries, memory, lengths):
        return jax.grad(loss_of(layer, lengths=(None, lengths)))(params, (queries, memory))

    args = (params, *x, jnp.array([3, 4, 5]))
    for batched in range(4):
        axes = [0 if i == batched else None for i in range(4)]
        given = [twice(a) if i == batched else a for i, a in enumerate(args)]
        assert calls_of_cudnn(jax.vmap(gradient, axes), *given) == 2


@pytest.mark.parametrize(
    ("x", "extra"),
    [
        (jnp.ones((3, 128, 32), jnp.float32), {}),
        (jnp.ones((3, 128, 24), jnp.bfloat16), {}),
        (jnp.ones((3, 128, 512), jnp.bfloat16), {}),
        (jnp.ones((3, 100, 32), jnp.bfloat16), {}),
        (jnp.ones((0, 128, 32), jnp.bfloat16), {}),
        (jnp.ones((3, 128, 32), jnp.bfloat16), {"mask": np.ones((128, 128), bool)}),
    ],
    ids=["float32", "heads of 12", "heads of 256", "100 steps", "no examples", "mask"],
)
def test_on_a_gpu_the_plain_path_is_taken_where_the_kernel_does_not_fit(cudnn, x, extra):
    layer = jnn.attention(2)
    assert calls_of_cudnn(loss_of(layer, **extra), parameters(layer, x, x.dtype), x) == 0


def test_the_choice_between_the_kernels_changes_nothing_on_a_cpu(key, request):
    layer = jnn.attention(1)
    x = jax.random.normal(key, (2, 2, 128, 8)).astype(jnp.bfloat16)
    params = parameters(layer, x, jnp.bfloat16)
    lengths = jnp.array([[0, 2], [100, 128]])

    def gradients(params, x, lengths):
        one = jax.grad(lambda p, x, n: loss_of(layer, lengths=n)(p, x), (0, 1))
        return one(params, x, lengths), jax.vmap(one, (None, 0, 0))(params, x, lengths)

    without = jax.jit(lambda *args: gradients(*args))(params, x, lengths)
    request.getfixturevalue("cudnn")
    assert calls_of_cudnn(gradients, params, x, lengths) == 4
    chex.assert_trees_all_equal(jax.jit(lambda *args: gradients(*args))(params, x, lengths), without)
    eager, _ = layer.apply(params, {}, x, lengths=lengths)
    np.testing.assert_array_equal(eager[0, 0], 0)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", [None, ((0, 1, 2), (3, 4, 8))], ids=["whole", "lengths"])
def test_the_fused_kernel_is_called_with_what_the_plain_path_computes(causal, lengths, monkeypatch, key):
    by_jax = jax.nn.dot_product_attention

    def elsewhere(*args, implementation, **kwargs):
        assert implementation == "cudnn"
        with jax.numpy_dtype_promotion("standard"):
            return by_jax(*args, implementation="xla", **kwargs)

    monkeypatch.setattr(jax.nn, "dot_product_attention", elsewhere)
    lengths = None if lengths is None else jnp.asarray(lengths)
    q, k, v = (jax.random.normal(jax.random.fold_in(key, n), (2, 3, 8, n, 4)) for n in (4, 2, 2))
    # what sees nothing may be anything, and is not asked for
    towards = jnp.ones(q.shape) if lengths is None else (lengths > 0).astype(jnp.float32)[..., None, None, None] * q

    def gradients(attend):
        return jax.jit(jax.value_and_grad(lambda q, k, v: jnp.sum(towards * attend(q, k, v)), (0, 1, 2)))(q, k, v)

    visible = visible_steps(8, 8, causal, lengths, None)
    expected = gradients(lambda q, k, v: attend_plainly(q, k, v, visible))
    found = gradients(lambda q, k, v: attend_fused(q, k, v, lengths, causal=causal))
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-5)


def test_lengths_reach_attention_through_a_model_and_not_its_decoding_twin(key, raises):
    x = jnp.ones((2, 5, 8))
    model = jnn.serial(jnn.attention(2, causal=True), jnn.dense(3))
    params, state = model.init(key, x)
    y, _ = model.apply(params, state, x, lengths=jnp.array([2, 5]))
    np.testing.assert_array_equal(y[0, 2:], np.broadcast_to(params["dense_1"]["b"], (3, 3)))
    decoder = jnn.serial(jnn.attention(2, causal=True, cache=5), jnn.dense(3))
    params, state = decoder.init(key, x)
    with raises(ValueError, "serial: no layer inside takes the argument lengths; none of them takes any"):
        decoder.apply(params, state, x, lengths=jnp.array([2, 5]))


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"heads": 0}, "heads must be at least 1, got 0"),
        ({"heads": 4, "kv_heads": 3}, "3 key and value heads do not divide 4 heads"),
        ({"heads": 4, "kv_heads": 8}, "8 key and value heads do not divide 4 heads"),
        ({"heads": 4, "causal": True, "cache": 0}, "cache must be at least 1, got 0"),
        ({"heads": 4, "cache": 7}, "cache=7 needs causal=True: what is decoded cannot see what comes after"),
    ],
    ids=str,
)
def test_attention_refuses_numbers_that_do_not_fit(arguments, problem, raises):
    with raises(ValueError, f"attention: {problem}"):
        jnn.attention(**arguments)


@pytest.mark.parametrize(
    ("options", "x", "problem"),
    [
        ({}, jnp.ones((5, 6)), "4 heads do not divide 6 features"),
        ({"rotary": True}, jnp.ones((5, 12)), "rotary needs heads of even size, got 12 features by 4 heads"),
        ({}, jnp.ones(8), "expected floating-point input (..., time, width), got float32 (8,)"),
        ({}, jnp.ones((5, 8), int), "expected floating-point input (..., time, width), got int32 (5, 8)"),
        ({}, (jnp.ones((5, 8)),) * 3, "expected an array (..., time, width), got a tuple of 3"),
        (
            {},
            (jnp.ones((2, 5, 8)), jnp.ones((3, 5, 8))),
            "expected queries and memory with the same leading axes, got (2, 5, 8) and (3, 5, 8)",
        ),
        *(
            (
                options,
                (jnp.ones((5, 8)), jnp.ones((5, 8))),
                "causal, rotary and cache are for a sequence that looks at itself, got a memory",
            )
            for options in ({"causal": True}, {"rotary": True}, {"causal": True, "cache": 4})
        ),
    ],
)
def test_attention_says_at_init_what_does_not_fit(options, x, problem, key, raises):
    with raises(ValueError, f"attention: {problem}"):
        jnn.attention(4, **options).init(key, x)


@pytest.mark.parametrize(
    ("x", "extra", "problem"),
    [
        (jnp.ones((2, 5, 9)), {}, "expected 8 features in the last axis, got (2, 5, 9)"),
        (
            jnp.ones((2, 5, 8), jnp.bfloat16),
            {},
            "expected float32 input, as the parameters are, got bfloat16: cast one of them",
        ),
        (jnp.ones((2, 5, 8)), {"lengths": jnp.ones(3, int)}, "expected lengths as integers (2,), got int32 (3,)"),
        (
            (jnp.ones((2, 5, 8)), jnp.ones((2, 4, 8))),
            {"lengths": jnp.ones(2, int)},
            "expected lengths as a pair (of queries, of memory), got int32 (2,)",
        ),
        (
            jnp.ones((2, 5, 8)),
            {"mask": jnp.ones((5, 5), int)},
            "expected mask as booleans (5, 5) or (2, 5, 5), got int32 (5, 5)",
        ),
        (
            jnp.ones((2, 5, 8)),
            {"mask": jnp.ones((2, 5), bool)},
            "expected mask as booleans (5, 5) or (2, 5, 5), got bool (2, 5)",
        ),
        (
            (jnp.ones((5, 8)), jnp.ones((4, 8))),
            {"mask": jnp.ones((4, 5), bool)},
            "expected mask as booleans (5, 4), got bool (4, 5)",
        ),
    ],
)
def test_attention_says_what_it_expected_and_what_it_got(x, extra, problem, raises):
    layer = jnn.attention(2)
    params = parameters(layer, jnp.ones((2, 5, 8)))
    with raises(ValueError, f"attention: {problem}"):
        layer.apply(params, {}, x, **extra)


def test_attention_refuses_foreign_parameters(raises):
    x = jnp.ones((5, 8))
    params = parameters(jnn.attention(4), x)
    with raises(ValueError, "attention: expected parameters q, k, v and out, got none"):
        jnn.attention(4).apply({}, {}, x)
    with raises(ValueError, "v: expected parameters w and b, got ['w']"):
        jnn.attention(4).apply({**params, "v": {"w": params["v"]["w"]}}, {}, x)
    model = jnn.serial(jnn.attention(4, kv_heads=2))
    with raises(ValueError, "attention_0/k: expected w (8, 4) and b (4,), got (8, 8) and (8,)"):
        model.apply({"attention_0": params}, {}, x)
    with raises(ValueError, "out: expected w (8, 8) and b (8,), got (8, 8) and ()"):  # which would broadcast
        jnn.attention(4).apply({**params, "out": {**params["out"], "b": jnp.ones(())}}, {}, x)


def test_the_decoding_twin_says_what_it_cannot_do(key, raises):
    layer = jnn.attention(2, causal=True, cache=4)
    x = jnp.ones((3, 4, 8))
    params, state = layer.init(key, x)
    with raises(ValueError, "attention: with a cache it only decodes: train it without one, the parameters are the same"):
        layer.apply(params, state, x, train=True)
    with raises(ValueError, "attention: expected at most 4 steps, got 5 in (3, 5, 8)"):
        layer.apply(params, state, jnp.ones((3, 5, 8)))
    with raises(ValueError, "attention: expected k and v (2, 4, 2, 4) in the state, got (3, 4, 2, 4) and (3, 4, 2, 4)"):
        layer.apply(params, state, x[:2])
    with raises(ValueError, "attention: expected state k, v and position, got none"):
        layer.apply(params, {}, x)
