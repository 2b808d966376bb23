"""A convolution's product and its derivatives are jax's own, in every form that they take."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jnn
from jnn.layers import correlations
from jnn.layers.correlations import Slide, correlate

# spatial size, window, in, out, and how the window moves
SLIDES = {
    "plain": ((6, 5), (3, 2), 4, 6, Slide((1, 1), ((1, 1), (0, 1)), (1, 1), (1, 1), 1)),
    "strided, with a rest": ((8, 5), (3, 3), 3, 2, Slide((2, 3), ((1, 0), (1, 1)), (1, 1), (1, 1), 1)),
    "dilated": ((9, 7), (3, 2), 2, 3, Slide((1, 2), ((2, 2), (0, 0)), (1, 1), (2, 3), 1)),
    "grouped": ((5, 5), (3, 3), 4, 6, Slide((1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1), 2)),
    "depthwise": ((5, 5), (2, 2), 3, 6, Slide((2, 1), ((0, 1), (1, 0)), (1, 1), (1, 1), 3)),
    "spread, cut": ((4, 3), (3, 3), 2, 4, Slide((1, 1), ((2, -1), (0, 1)), (2, 3), (1, 2), 1)),
    "spread and grouped": ((4, 3), (3, 2), 4, 2, Slide((1, 1), ((1, 1), (1, 0)), (2, 1), (1, 1), 2)),
    "one matrix": ((4, 3), (1, 1), 5, 2, Slide((1, 1), ((0, 0), (0, 0)), (1, 1), (1, 1), 1)),
    "series": ((9,), (4,), 2, 3, Slide((2,), ((3, 0),), (1,), (1,), 1)),
    "volumes": ((4, 3, 3), (2, 2, 1), 2, 3, Slide((1, 2, 1), ((1, 0), (0, 1), (0, 0)), (1, 1, 1), (1, 1, 1), 1)),
}
every_slide = pytest.mark.parametrize("name", SLIDES)


def operands(name, examples=5):
    spatial, window, ins, outs, slide = SLIDES[name]
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(size=(examples, *spatial, ins)))
    return x, jnp.asarray(random.normal(size=(*window, ins // slide.groups, outs))), slide


def plain(x, w, slide):
    axes = "DHW"[3 - len(slide.stride) :]
    return jax.lax.conv_general_dilated(
        x,
        w,
        slide.stride,
        slide.pads,
        lhs_dilation=slide.spread,
        rhs_dilation=slide.dilation,
        dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
        feature_group_count=slide.groups,
    )


def orders(product, x, w, slide):
    """The value and derivatives of three kinds: by both operands, forward over reverse, reverse over reverse."""

    def loss(x, w):
        return jnp.sum(jnp.sin(product(x, w, slide)))

    gradient = jax.grad(loss, (0, 1))
    again = jax.grad(lambda x, w: sum(jnp.sum(jnp.cos(g)) for g in gradient(x, w)), (0, 1))
    return product(x, w, slide), gradient(x, w), jax.jvp(gradient, (x, w), (x / 2, w / 3)), again(x, w)


@every_slide
@pytest.mark.parametrize("cache", [1, 2**20], ids=["an example at a time", "all at once"])
def test_values_and_derivatives_of_all_orders_are_those_of_jax(name, cache, x64, monkeypatch):
    monkeypatch.setattr(correlations, "_CACHE", cache)
    x, w, slide = operands(name)
    chex.assert_trees_all_close(
        *(jax.jit(lambda x, w, p=p: orders(p, x, w, slide))(x, w) for p in (correlate, plain)), rtol=1e-11, atol=1e-11
    )


@every_slide
@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0)], ids=["both", "x", "w"])
def test_a_map_inside_and_outside_of_the_derivative(name, axes, x64):
    x, w, slide = operands(name, examples=2)
    x, w = (jnp.stack([a, -2 * a, a + 1]) if axis == 0 else a for a, axis in zip((x, w), axes, strict=True))

    def both(product):
        def loss(x, w):
            return jnp.sum(jnp.sin(product(x, w, slide)))

        inside = jax.vmap(jax.grad(loss, (0, 1)), axes)
        outside = jax.grad(lambda x, w: jnp.sum(jax.vmap(loss, axes)(x, w)), (0, 1))
        return lambda x, w: (inside(x, w), outside(x, w))

    chex.assert_trees_all_close(*(jax.jit(both(p))(x, w) for p in (correlate, plain)), rtol=1e-10, atol=1e-10)


@every_slide
def test_a_map_of_maps(name, x64):
    x, w, slide = operands(name, examples=2)

    def twice(product):
        gradient = jax.grad(lambda x, w: jnp.sum(jnp.sin(product(x, w, slide))), (0, 1))
        return jax.vmap(jax.vmap(gradient, (0, None)), (None, 0))

    xs, ws = jnp.stack([x, x + 1, -x]), jnp.stack([w, 2 * w])
    chex.assert_trees_all_close(*(jax.jit(twice(p))(xs, ws) for p in (correlate, plain)), rtol=1e-10, atol=1e-10)


def test_an_accelerator_gets_the_convolutions_of_jax():
    x, w, slide = operands("strided, with a rest")
    x, w = x.astype(jnp.float32), w.astype(jnp.float32)

    def text(product, platform):
        gradient = jax.jit(jax.grad(lambda x, w: jnp.sum(jnp.sin(product(x, w, slide))), (0, 1)))
        return jax.export.export(gradient, platforms=[platform])(x, w).mlir_module()

    def windows(text):
        return sorted(
            line.split("dim_numbers")[1].split("loc(")[0] for line in text.splitlines() if "stablehlo.convolution" in line
        )

    for platform in ("cuda", "tpu"):
        assert windows(text(correlate, platform)) == windows(text(plain, platform))
    assert windows(text(correlate, "cpu")) != windows(text(plain, "cpu"))


def test_inside_a_shard_map_where_only_the_images_vary():
    x, w, slide = operands("plain", examples=2)
    x, w = x.astype(jnp.float32), w.astype(jnp.float32)
    mesh = jax.make_mesh((1,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    P = jax.sharding.PartitionSpec

    def gradient(x, w):
        return jax.lax.psum(
            jax.grad(lambda w: jnp.sum(correlate(x, w, slide) ** 2))(jax.lax.pcast(w, "batch", to="varying")), "batch"
        )

    found = jax.jit(jax.shard_map(gradient, mesh=mesh, in_specs=(P("batch"), P()), out_specs=P()))(x, w)
    chex.assert_trees_all_close(found, jax.grad(lambda w: jnp.sum(plain(x, w, slide) ** 2))(w), rtol=1e-4, atol=1e-4)


def test_no_examples_give_a_gradient_of_zeros(key):
    layer = jnn.conv(3, 2)
    x = jnp.zeros((0, 4, 4, 2))
    params, _ = layer.init(key, x)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(layer.apply(p, {}, x)[0])))(params)
    chex.assert_trees_all_equal(gradient, jax.tree.map(jnp.zeros_like, params))


def test_the_precision_of_a_context_inside_of_a_traced_function_holds():
    x, w, slide = operands("plain")

    def text(product):
        def loss(x, w):
            with jax.default_matmul_precision("highest"):
                return jnp.sum(jnp.sin(product(x, w, slide)))

        gradient = jax.jit(jax.grad(loss, (0, 1)))
        return jax.export.export(gradient, platforms=["cuda"])(*(a.astype(jnp.float32) for a in (x, w))).mlir_module()

    assert text(correlate).count("HIGHEST") == text(plain).count("HIGHEST") > 0
