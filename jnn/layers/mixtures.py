"""What attention takes in, softmax(q k^T / sqrt(size)) v in each head, in the form that is quickest where it runs."""

import functools
import math

import jax
import jax.numpy as jnp

from jnn.numbers import wide


def attend(q, k, v, *, causal, lengths, mask):
    """(..., time, heads, size), (..., memory time, kv_heads, size) twice -> (..., time, heads, size)"""

    def plain(q, k, v, lengths):
        if causal and mask is None:
            return _in_blocks(q, k, v)
        return attend_plainly(q, k, v, visible_steps(q.shape[-3], k.shape[-3], causal, lengths, mask))

    if mask is not None or not _fused_takes(q, k, v, causal, lengths):
        return plain(q, k, v, lengths)
    fused = functools.partial(attend_fused, causal=causal)
    return jax.lax.platform_dependent(q, k, v, lengths, cuda=fused, default=plain)


def attend_plainly(q, k, v, visible):
    """A step that sees nothing gets some finite mixture."""
    parts = _heads_first(q, k, v)
    y = _mixture(*parts, None if visible is None else jnp.expand_dims(visible, (-4, -3)))
    return jnp.moveaxis(y, -2, -4).reshape(q.shape)


def _in_blocks(q, k, v):
    """Causal attention, a few steps at a time: together they look at little more than half of what all look at."""
    time = q.shape[-3]
    block = max(-(-time // _BLOCKS), _LEAST)
    # laid out here: XLA would do it, and what led to them, once more for each block
    heads_q, heads_k, heads_v = jax.lax.optimization_barrier(_heads_first(q, k, v))
    ys = []
    for start in range(0, time, block):
        end = min(start + block, time)
        steps = jnp.arange(start, end, dtype=jnp.int32)
        visible = jnp.arange(end, dtype=jnp.int32) <= steps[:, None]
        ys.append(_mixture(heads_q[..., start:end, :], heads_k[..., :end, :], heads_v[..., :end, :], visible))
    return jnp.moveaxis(jnp.concatenate(ys, -2), -2, -4).reshape(q.shape) if ys else q


def _heads_first(q, k, v):
    """(..., time, heads, size) -> q (..., kv_heads, group, time, size), k and v (..., kv_heads, memory time, size)"""
    kv_heads, size = k.shape[-2:]
    grouped = q.reshape(*q.shape[:-2], kv_heads, q.shape[-2] // kv_heads, size)
    return jnp.moveaxis(grouped, -4, -2), jnp.moveaxis(k, -3, -2), jnp.moveaxis(v, -3, -2)


_BLOCKS, _LEAST = 4, 64


@jax.custom_jvp
def _mixture(q, k, v, visible):
    """softmax(q k^T / sqrt(size)) v: (..., heads, group, time, size), (..., heads, memory time, size) twice -> as q.

    The derivative keeps one array of the scores' size, where jax's own keeps three, and normalises after the product."""
    return _unnormalized(q, k, v, visible)[0]


def _unnormalized(q, k, v, visible):
    """-> y, exp(scores - highest) (..., heads, group, time, memory time), one over their sums (..., time, 1)"""
    dtype = wide(q.dtype)
    scores = jnp.einsum("...gqd,...kd->...gqk", q, k, preferred_element_type=dtype) * (1 / math.sqrt(q.shape[-1]))
    if visible is not None:
        # not -inf: a step that sees nothing would be 0 / 0
        scores = jnp.where(visible, scores, jnp.finfo(dtype).min)
    weights = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True, initial=jnp.finfo(dtype).min))
    # the sum holds the highest score's 1, unless there is no step to look at
    factor = 1 / jnp.maximum(jnp.sum(weights, axis=-1, keepdims=True), 1)
    y = jnp.einsum("...gqk,...kd->...gqd", weights.astype(v.dtype), v, preferred_element_type=dtype) * factor
    return y.astype(v.dtype), weights, factor


@_mixture.defjvp
def _mixture_jvp(primals, tangents):
    q, k, v, visible = primals
    d_q, d_k, d_v, _ = tangents
    dtype = wide(q.dtype)
    # so that of bfloat16 the backward pass has products of bfloat16 as well; float16 has not the range
    narrow = q.dtype if q.dtype == jnp.bfloat16 else dtype

    def product(names, *factors):
        return jnp.einsum(names, *factors, preferred_element_type=narrow).astype(dtype)

    y, weights, factor = _unnormalized(q, k, v, visible)
    d_scores = product("...gqd,...kd->...gqk", d_q, k) + product("...gqd,...kd->...gqk", q, d_k)
    # less the weighted mean, as the weights' sum stays what it is
    d_scores = d_scores - jnp.sum(weights * d_scores, axis=-1, keepdims=True) * factor
    changed = (weights * d_scores * (1 / math.sqrt(q.shape[-1]))).astype(v.dtype)
    d_y = product("...gqk,...kd->...gqd", changed, v) + product("...gqk,...kd->...gqd", weights.astype(v.dtype), d_v)
    return y, (d_y * factor).astype(y.dtype)


def _fused_takes(q, k, v, causal, lengths) -> bool:
    """Whether cuDNN is there and has a kernel for these, forward and backward."""
    if q.dtype not in (jnp.bfloat16, jnp.float16) or not q.size or not k.size:
        return False
    # elsewhere its backward pass has given NaN (NVIDIA/cudnn-frontend, issues 160 and 1072)
    if q.shape[-3] % 128 or k.shape[-3] % 128:
        return False

    def forward_and_backward(q, k, v, lengths):
        y, gradient = jax.vjp(lambda q, k, v: attend_fused(q, k, v, lengths, causal=causal), q, k, v)
        return gradient(y)

    try:
        jax.eval_shape(forward_and_backward, q, k, v, lengths)
    except RuntimeError:  # jax's own checks, NotImplementedError among them; without them no program could be traced
        return False
    return True


def attend_fused(q, k, v, lengths, *, causal):
    shape = q.shape
    q, k, v = (a.reshape(math.prod(a.shape[:-3]), *a.shape[-3:]) for a in (q, k, v))
    arrays, counts = {"query": q, "key": k, "value": v}, {}
    if lengths is not None:
        lengths = lengths.reshape(len(q))
        valid = jnp.arange(k.shape[1], dtype=jnp.int32) < lengths[:, None]
        # what the kernel leaves unwritten in the gradient of the padding ends here
        arrays |= {name: jnp.where(valid[..., None, None], arrays[name], 0) for name in ("key", "value")}
        counts["query_seq_lengths"] = jnp.full_like(lengths, q.shape[1])
        counts["key_value_seq_lengths"] = jnp.maximum(lengths, 1)
    tied = _tie(arrays | counts)
    y = jax.nn.dot_product_attention(**tied(arrays | counts), is_causal=causal, implementation="cudnn")
    return tied(y).reshape(shape)


def _tie(arrays):
    """A function that gives each array back as it is, but batched under vmap if one of `arrays` is: jax's rule for the kernel
    and its derivative takes all batched or none."""
    same = functools.reduce(jnp.logical_and, [a.reshape(-1)[0] == a.reshape(-1)[0] for a in jax.tree.leaves(arrays)])
    return lambda tree: jax.tree.map(lambda a: jnp.where(same, a, a), tree)


def visible_steps(query_time, memory_time, causal, lengths, mask):
    """(..., time, memory time): whether a step may look at another; None where all may."""
    steps = jnp.arange(memory_time, dtype=jnp.int32)
    conditions = []
    if causal:
        conditions.append(steps <= jnp.arange(query_time, dtype=jnp.int32)[:, None])
    if lengths is not None:
        conditions.append(steps < lengths[..., None, None])
    if mask is not None:
        conditions.append(mask)
    return functools.reduce(jnp.logical_and, conditions) if conditions else None
