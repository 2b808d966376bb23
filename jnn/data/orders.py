"""The order in which examples come: random permutations that can be read at any position without being stored or sorted."""

import functools
import math

import jax
import jax.numpy as jnp


def shuffled(key, positions, size: int):
    """int (...) -> int32 (...):  what stands at `positions` in a random permutation of range(size), picked by `key`.

    positions: integers in [0, size); elsewhere the answer is `size`, which is no index of such an array.

    Every entry costs the same few operations, so a batch of a run's ten-thousandth epoch is as cheap as the first, and
    nothing of the data's size is computed or held. Sorting random numbers, as `jax.random.permutation` does, took half as
    long as training itself in runs of a small network on a CPU.

    A Feistel network on the cells of an a x b rectangle that holds range(size), applied again while it leads outside
    (Black & Rogaway 2002, "Ciphers with arbitrary finite domains", methods 2 and 3).
    """
    if not 1 <= size < 2**31:
        raise ValueError(f"shuffled: size must lie in [1, 2**31), got {size}")
    positions = jnp.asarray(positions)
    inside = (positions >= 0) & (positions < size)
    found = _permuted(_threefry(key), jnp.where(inside, positions, jnp.zeros_like(positions)), size)
    return jnp.where(inside, found, jnp.full_like(found, size))


def _permuted(key, positions, size):
    a, b = _rectangle(size)
    # a narrow rectangle mixes slowly: after 16 rounds neighbours in permutations of ten are still uneven by 1 %
    rounds = 32 if size < 64 else 10
    round_keys = jax.random.bits(key, (rounds,), jnp.uint32)

    def once(x):
        left, right = x % a, x // a
        for i in range(rounds):
            modulus = (a, b)[i % 2]
            left, right = right, (left + _mix(right, round_keys[i]) % modulus) % modulus
        return right * a + left

    x = positions.astype(jnp.uint32)
    if a * b == size:
        return once(x).astype(jnp.int32)

    def again(carry):
        x, outside = carry
        x = jnp.where(outside, once(x), x)
        return x, x >= size

    start = (x, jnp.ones(x.shape, bool))  # the first turn is everybody's
    x, _ = jax.lax.while_loop(lambda carry: jnp.any(carry[1]), again, start)
    return x.astype(jnp.int32)


def batch_order(key, first_step, steps: int, examples: int, batch_size: int):
    """-> int32 (steps, batch_size):  the examples in each batch of `steps` steps from `first_step` (int32 []) on.

    Each epoch is a fresh permutation; what is left at its end and fills no batch is dropped. A batch is a function of the
    key and the step alone."""
    if not 1 <= batch_size <= examples:
        raise ValueError(f"batch_order: batch_size must lie between 1 and the {examples} examples, got {batch_size}")
    per_epoch = examples // batch_size
    step = first_step + jnp.arange(steps, dtype=jnp.int32)
    epoch, batch = step // per_epoch, step % per_epoch
    positions = batch[:, None] * batch_size + jnp.arange(batch_size, dtype=jnp.int32)
    key = _threefry(key)
    keys = jax.vmap(lambda e: jax.random.fold_in(key, e))(epoch)
    return jax.vmap(lambda k, p: _permuted(k, p, examples))(keys, positions)


def _threefry(key):
    """A key of threefry, made of one of any kind: inside `vmap` the numbers of rbg are others than outside, for one key."""
    if str(jax.random.key_impl(key)) == "threefry2x32":
        return key
    return functools.reduce(jax.random.fold_in, jax.random.key_data(key), jax.random.key(0, impl="threefry2x32"))


def _rectangle(size):
    """Two factors of at least 2, near each other, whose product is `size` or exceeds it by as little as possible."""
    root = max(math.isqrt(size - 1) + 1, 2)
    sides = ((a, max(-(-size // a), 2)) for a in range(max(root // 2, 2), root + 1))
    return min(sides, key=lambda side: (side[0] * side[1], -side[0]))


def _mix(x, round_key):
    """uint32 (...) -> uint32 (...): murmur3's finaliser, after the round's key."""
    x = x * jnp.uint32(0x9E3779B1) + round_key
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def folds(n: int, k: int, *, key):
    """-> int32 (k, n - n // k), int32 (k, n // k):  for k-fold cross-validation, the examples to train on and those held out.

    The parts held out are disjoint, and drawn at random. All are of one size, so that the folds can be mapped over; the n % k
    examples that are left are held out by none, and trained on by all."""
    if not 2 <= k <= n:
        raise ValueError(f"folds: k must lie between 2 and the {n} examples, got {k}")
    order = shuffled(key, jnp.arange(n), n)
    size = n // k
    held = order[: k * size].reshape(k, size)
    # the order from behind the part that is held out around to its beginning
    train = jnp.stack([jnp.roll(order, -(i + 1) * size)[: n - size] for i in range(k)])
    return train, held
