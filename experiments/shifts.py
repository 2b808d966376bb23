"""What a shift of pictures changes behind a random convolution: whether its output shifts along, whether pooled it stays."""

import jax
import jax.numpy as jnp
import numpy as np

import jnn


def wrapped(x, n: int):
    """Pictures with n columns and rows of the other side around them."""
    return jnp.pad(x, [(0, 0)] * (x.ndim - 3) + [(n, n), (n, n), (0, 0)], mode="wrap")


def pool(layer):
    """A layer without parameters as a function."""
    return lambda x: layer.apply({}, {}, x)[0]


def changes(images, most: int, seeds: int, seed: int) -> dict[str, dict[str, np.ndarray]]:
    """kind -> case -> (seeds, most + 1): what shifts of 0 to `most` pixels change of a random convolution's output, relative to
    the distance of the outputs of two different pictures. Equivariance: of the output, from the one that is shifted along;
    invariance: of the output behind a pooling."""
    conv, strided = (jnn.conv(8, 5, padding="VALID", stride=stride) for stride in (1, 2))
    padded = jnn.conv(8, 5)
    pools = {"no pooling": jnp.asarray} | {f"max {n} x {n}": pool(jnn.max_pool(n)) for n in (2, 4, 8)}
    pools |= {"mean 8 x 8": pool(jnn.avg_pool(8)), "global max": pool(jnn.global_max_pool())}

    def change(a, b, of):
        different = jnp.linalg.norm(of - jnp.roll(of, 1, axis=0))  # each picture and the next
        return jnp.linalg.norm(a - b) / different

    def run(shift, key, images):
        params, _ = conv.init(key, wrapped(images, 2))
        moved = jnp.roll(images, shift, axis=-2)
        seen = lambda layer, x: jax.nn.relu(layer.apply(params, {}, x)[0])
        y, y_moved = (seen(conv, wrapped(x, 2)) for x in (images, moved))
        z, z_moved = (seen(padded, x) for x in (images, moved))
        h, h_moved = (seen(strided, wrapped(x, 2)) for x in (images, moved))
        z_shifted = jnp.roll(z, shift, axis=-2)
        column = jnp.arange(z.shape[-2])
        inside = ((column >= shift + 2) & (column < z.shape[-2] - 2)).astype(z.dtype)[:, None]
        along = {
            "circular padding": change(y_moved, jnp.roll(y, shift, axis=-2), y),
            "zeros": change(z_moved, z_shifted, z),
            "zeros, interior": change(z_moved * inside, z_shifted * inside, z),
            "circular, stride 2": change(h_moved, jnp.roll(h, shift // 2, axis=-2), h),
        }
        stays = {name: change(pooled(y_moved), pooled(y), pooled(y)) for name, pooled in pools.items()}
        return {"equivariance": along, "invariance": stays}

    found = jnn.sweep(run, jnp.arange(most + 1), seeds=seeds, seed=seed, data=images)
    return jax.tree.map(lambda a: np.asarray(a).T, found)
