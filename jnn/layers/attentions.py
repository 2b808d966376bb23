"""Attention: each step of a sequence looks at others and takes in what it finds there."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jnn.errors import LayerError, at
from jnn.initializers import lecun_normal, zeros
from jnn.layers.checks import keys_for, require_dtype, require_floating, require_initializers, require_width, taken, taken_state
from jnn.layers.embeddings import angles, next_positions
from jnn.layers.linear import dense
from jnn.layers.mixtures import attend, attend_plainly, visible_steps
from jnn.layers.products import affine
from jnn.layers.sequences import checked_lengths, pair_of, valid_steps
from jnn.numbers import require_bool, whole, wide
from jnn.types import Layer


def attention(
    heads: int,
    *,
    kv_heads: int | None = None,
    causal: bool = False,
    rotary: bool = False,
    cache: int | None = None,
    w_init=lecun_normal(),
    out_init=None,
    b_init=zeros,
) -> Layer:
    """(..., time, width) -> (..., time, width):  in each head softmax(q k^T / sqrt(size)) v, with q, k, v = x @ w + b and
    size = width / heads; the heads side by side @ out.w + out.b.

    x may be a pair (queries (..., time, width), memory (..., memory time, in)): k and v are then the memory's.

    heads: how many; they divide width.
    kv_heads: heads of k and v, each shared by heads / kv_heads consecutive heads of q (Ainslie et al. 2023); heads, where None.
    causal: a step sees itself and those before.
    rotary: q and k are turned by the angles t / 10000^(2i / size), in the planes of features i and i + size / 2 of a head
        (the halves of GPT-NeoX and Llama, not neighbours as in Su et al. 2021): scores then know distances only.
    cache: the decoding twin for so many steps, causal, with the same parameters. x holds the steps that come next, any
        number; they see those before in the state. Past the end y is NaN.
    w_init, out_init, b_init: of q, k, v; of out (w_init, where None); of the biases.

    apply(params, state, x, *, key=None, train=False, lengths=None, mask=None), the twin without the last two:
    lengths: integers (...) from 0 to time, traced ones clipped to that: how many steps of each sequence count; with a memory
        a pair (of queries, of memory), either may be None. Steps past the length are not seen and give zeros, so each
        sequence gives what it gives alone.
    mask: booleans (time, time) or (..., time, time), or (..., time, memory time): True where a step may look at another.
    A step that sees nothing gives zeros.

    Parameters: `q`, `k`, `v`, `out`, each `{w (in, features), b (features,)}`; `k.w` and `v.w` have kv_heads * size features.
    State: none; with cache `k` and `v (..., cache, kv_heads, size)` and `position`, int32 [].
    Raises LayerError when heads do not divide the width, rotary meets heads of odd size, a memory meets causal, rotary or
    cache, x is longer than cache, the twin is trained, or x, lengths, mask or a parameter has another shape or dtype.

    Scores and softmax are computed in float32 at least. On an NVIDIA GPU a program in bfloat16 or float16 takes cuDNN's
    fused kernel, where there is no mask and the shapes allow it; as jax has it, that is differentiable once, backwards.
    Vaswani et al. 2017.
    """
    heads = whole("attention", "heads", heads)
    require_bool("attention", causal=causal, rotary=rotary)
    require_initializers("attention", w_init=w_init, out_init=w_init if out_init is None else out_init, b_init=b_init)
    kv_heads = heads if kv_heads is None else whole("attention", "kv_heads", kv_heads)
    if heads % kv_heads:
        raise ValueError(f"attention: {kv_heads} key and value heads do not divide {heads} heads")
    length = 0 if cache is None else whole("attention", "cache", cache)
    if length and not causal:
        raise ValueError(f"attention: cache={length} needs causal=True: what is decoded cannot see what comes after")

    def init(key, x):
        queries, memory = sources(x)
        width = queries.shape[-1]
        size = head_size(width)
        q_key, k_key, v_key, out_key = keys_for("attention", key, 4)
        wide_heads, narrow_heads = (dense(n * size, w_init=w_init, b_init=b_init) for n in (heads, kv_heads))
        params = {
            "q": wide_heads.init(q_key, queries)[0],
            "k": narrow_heads.init(k_key, memory)[0],
            "v": narrow_heads.init(v_key, memory)[0],
            "out": dense(width, w_init=out_init or w_init, b_init=b_init).init(out_key, queries)[0],
        }
        if not length:
            return params, {}
        empty = jnp.zeros((*queries.shape[:-2], length, kv_heads, size), jnp.float32)
        return params, {"k": empty, "v": empty, "position": jnp.zeros((), jnp.int32)}

    def apply(params, state, x, *, key=None, train=False, lengths=None, mask=None):
        queries, memory = sources(x)
        if type(x) is not tuple:
            query_lengths = memory_lengths = checked_lengths("attention", lengths, queries)
        else:
            of_queries, of_memory = pair_of("attention", "lengths", "(of queries, of memory)", lengths)
            query_lengths = checked_lengths("attention", of_queries, queries)
            memory_lengths = checked_lengths("attention", of_memory, memory)
        mask = _checked_mask(mask, queries, memory)
        parts = matrices(params, queries, memory)
        # before the products: their derivative with respect to w would multiply what is in the padding, NaN perhaps, by zero
        queries, memory = _without_padding(queries, query_lengths), _without_padding(memory, memory_lengths)
        q, k, v = heads_of(parts, queries, memory, jnp.arange(queries.shape[-2], dtype=jnp.int32))
        # what is causal and counts sees only what counts
        y = attend(q, k, v, causal=causal, lengths=None if causal else memory_lengths, mask=mask)
        y = joined(parts, y)
        for counts in _counting(queries, memory, causal, query_lengths, memory_lengths, mask):
            y = jnp.where(counts[..., None], y, 0)
        return y, state

    def decode(params, state, x, *, key=None, train=False):
        x, _ = sources(x)
        parts = matrices(params, x, x)
        k_before, v_before, position = taken_state("attention", state, "k", "v", "position")
        shape = (*x.shape[:-2], length, kv_heads, head_size(x.shape[-1]))
        if k_before.shape != shape or v_before.shape != shape:
            raise LayerError("attention", f"expected k and v {shape} in the state, got {k_before.shape} and {v_before.shape}")
        positions, inside = next_positions("attention", position, x, length, train)
        q, k_new, v_new = heads_of(parts, x, x, positions)

        def written(before, new):
            # dropped past the end, where dynamic_update_slice would move back and overwrite
            return before.at[..., positions, :, :].set(
                new.astype(before.dtype), mode="drop", indices_are_sorted=True, unique_indices=True
            )

        k, v = written(k_before, k_new), written(v_before, v_new)
        visible = jnp.arange(length, dtype=jnp.int32) <= positions[:, None]
        y = joined(parts, attend_plainly(q, k.astype(x.dtype), v.astype(x.dtype), visible))
        y = jnp.where(inside[:, None], y, jnp.nan)
        return y, {"k": k, "v": v, "position": position + x.shape[-2]}

    def sources(x) -> tuple[Any, Any]:
        pair: Any = x if type(x) is tuple and len(x) == 2 else (x, x)
        queries, memory = pair
        for source in (queries, memory):
            require_floating("attention", source, "(..., time, width)", 2)
        if type(x) is tuple:
            if causal or rotary:
                raise LayerError("attention", "causal, rotary and cache are for a sequence that looks at itself, got a memory")
            if queries.shape[:-2] != memory.shape[:-2]:
                shapes = f"{queries.shape} and {memory.shape}"
                raise LayerError("attention", f"expected queries and memory with the same leading axes, got {shapes}")
        return queries, memory

    def head_size(width):
        if width % heads or not width:
            raise LayerError("attention", f"{heads} heads do not divide {width} features")
        if rotary and width // heads % 2:
            raise LayerError("attention", f"rotary needs heads of even size, got {width} features by {heads} heads")
        return width // heads

    def matrices(params, queries, memory):
        """{"q": (w, b), ...}, all of the right shapes."""
        parts = {}
        for name, part in zip(_parts, taken("attention", params, *_parts), strict=True):
            with at(name):
                parts[name] = taken("attention", part, "w", "b")
        for source, name in ((queries, "q"), (memory, "k")):
            require_width("attention", source, parts[name][0].shape[0])
            require_dtype("attention", source, parts[name][0].dtype)
        width, memory_width = queries.shape[-1], memory.shape[-1]
        narrow = kv_heads * head_size(width)
        shapes = {"q": (width, width), "k": (memory_width, narrow), "v": (memory_width, narrow), "out": (width, width)}
        for name, shape in shapes.items():
            w, b = parts[name]
            if (w.shape, b.shape) != (shape, shape[1:]):
                with at(name):
                    raise LayerError("attention", f"expected w {shape} and b {shape[1:]}, got {w.shape} and {b.shape}")
        return parts

    def heads_of(parts, queries, memory, positions):
        """q (..., time, heads, size) and k, v (..., memory time, kv_heads, size)."""
        size = head_size(queries.shape[-1])

        def project(name, source, count):
            w, b = parts[name]
            with jax.named_scope(name):
                return affine(source, w, b).reshape(*source.shape[:-1], count, size)

        q, k, v = project("q", queries, heads), project("k", memory, kv_heads), project("v", memory, kv_heads)
        return (_turned(q, positions), _turned(k, positions), v) if rotary else (q, k, v)

    def joined(parts, y):
        w, b = parts["out"]
        with jax.named_scope("out"):
            return affine(y.reshape(*y.shape[:-2], w.shape[0]), w, b)

    return Layer(init, decode if length else apply)


_parts = ("q", "k", "v", "out")


def _checked_mask(mask, queries, memory):
    if mask is None:
        return None
    mask = mask if hasattr(mask, "dtype") else np.asarray(mask)
    one = (queries.shape[-2], memory.shape[-2])
    each = (*queries.shape[:-2], *one)
    if mask.dtype != bool or mask.shape not in (one, each):
        wanted = " or ".join(map(str, dict.fromkeys((one, each))))
        raise LayerError("attention", f"expected mask as booleans {wanted}, got {mask.dtype} {mask.shape}")
    return jnp.asarray(mask)


def _without_padding(x, lengths):
    return x if lengths is None else jnp.where(valid_steps(lengths, x)[..., None], x, 0)


def _counting(queries, memory, causal, query_lengths, memory_lengths, mask):
    """Arrays (..., time), False where a step is padding or sees nothing."""
    if query_lengths is not None:
        yield valid_steps(query_lengths, queries)
    if mask is not None:
        visible: Any = visible_steps(queries.shape[-2], memory.shape[-2], causal, memory_lengths, mask)
        yield jnp.any(visible, axis=-1)
    elif memory_lengths is not None:
        yield memory_lengths[..., None] > 0
    if not memory.shape[-2]:
        yield jnp.zeros(queries.shape[-2], bool)


def _turned(x, positions):
    """(..., time, heads, size), (time,) -> the same:  each pair of features i, i + size / 2 turned by its angle.
    Su et al. 2021, eq. 34, in the order of features of GPT-NeoX."""
    angle = angles(positions, x.shape[-1], wide(x.dtype))[:, None, :]  # (time, 1, size / 2)
    first, second = jnp.split(x.astype(angle.dtype), 2, axis=-1)
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
