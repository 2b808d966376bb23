"""Losses `(prediction, target) -> losses`: they reduce the last axis and nothing else, so that there is one number per
example (or per time step, or per pixel). Computed in float32 or better."""

import math

import jax
import jax.numpy as jnp

from jnn.numbers import is_by_index, whole, wide


def squared_error(prediction, target):
    """(..., n), (..., n) -> (...):  mean over the last axis of (prediction - target)^2, without a factor 1/2."""
    return jnp.mean(jnp.square(_error("squared_error", prediction, target)), axis=-1)


def absolute_error(prediction, target):
    """(..., n), (..., n) -> (...):  mean over the last axis of |prediction - target|."""
    return jnp.mean(_size(_error("absolute_error", prediction, target)), axis=-1)


def huber(prediction, target, *, delta=1.0):
    """(..., n), (..., n) -> (...):  mean over the last axis of e^2 / 2 where |e| <= delta, else delta * (|e| - delta / 2).

    e = prediction - target. The half belongs to the definition of Huber 1964, eq. 2.6: slopes are at most delta.
    delta: positive; may be traced.
    """
    if isinstance(delta, float | int) and not delta > 0:
        raise ValueError(f"huber: delta must be positive, got {delta}")
    size = _size(_error("huber", prediction, target))
    near = jnp.minimum(size, jnp.asarray(delta).astype(size.dtype))
    # near^2 / 2 + delta * (size - near), in which an infinite error costs no NaN
    far = jnp.asarray(delta).astype(size.dtype) * (size - near)
    return jnp.mean(near * near / 2 + far, axis=-1)


def softmax_cross_entropy(prediction, target, *, smoothing=None):
    """(..., classes), (...) or (..., classes) -> (...):  -sum_c q_c log softmax(prediction)_c.

    prediction: logits, the logarithms of unnormalised probabilities.
    target: integers in [0, classes), or a distribution over the classes (one-hot, for one).
    smoothing: a share in [0, 1]; q becomes (1 - smoothing) * q + smoothing / classes (Szegedy et al. 2016, section 7).
    A class out of range gives NaN: never a wrong number.
    """
    _require_axis("softmax_cross_entropy", prediction)
    classes = prediction.shape[-1]
    by_index = is_by_index("softmax_cross_entropy", prediction, target)
    # not logsumexp less the logit: that loses digits where all logits are large
    log_probabilities = jax.nn.log_softmax(_wide(prediction), axis=-1)
    zero = jnp.zeros_like(log_probabilities)
    if by_index:
        # a selection and not a gather, whose derivative is a scatter: many small kernels on a CPU
        chosen, possible = _chosen(target, classes)
        losses = -jnp.sum(jnp.where(chosen, log_probabilities, zero), axis=-1)
        losses = jnp.where(possible, losses, jnp.full_like(losses, jnp.nan))
    else:
        probabilities = target.astype(log_probabilities.dtype)
        # an impossible class (-inf) of probability 0 counts nothing
        losses = -jnp.sum(jnp.where(probabilities == 0, zero, probabilities * log_probabilities), axis=-1)
    if smoothing is None:
        return losses
    share = jnp.asarray(smoothing).astype(losses.dtype)
    uniform = -jnp.sum(log_probabilities, axis=-1) / classes
    return (1 - share) * losses + share * uniform


def linear_cross_entropy(prediction, target, *, smoothing=None, chunk: int = 1024):
    """((..., n), (n, classes)), (...) -> (...):  softmax_cross_entropy(x @ w, target), without ever holding all the logits.

    For vocabularies so large that the logits of a batch fill the memory. They are computed for `chunk` examples (tokens) at
    a time and, for the gradient, once more; results are those of the plain one. Chen et al. 2016, "Training deep nets with
    sublinear memory cost".

    prediction: (x, w) or (x, w, b), what the head of a network is made of instead of what it returns, as
        `models.gpt(..., logits=False)` gives it; b (classes,).
    target, smoothing: as in `softmax_cross_entropy`.
    chunk: of all devices together, where x is cut over several; a multiple of their number.
    """
    if not isinstance(prediction, tuple | list) or len(prediction) not in (2, 3):
        raise ValueError("linear_cross_entropy: prediction must be (x, w) or (x, w, b), not the logits x @ w + b")
    x, w, *b = prediction
    _require_axis("linear_cross_entropy", x)
    if w.ndim != 2 or x.shape[-1] != w.shape[0] or any(bias.shape != w.shape[1:] for bias in b):
        shapes = ", ".join(str(a.shape) for a in prediction)
        raise ValueError(f"linear_cross_entropy: expected x (..., n), w (n, classes) and b (classes,), got {shapes}")
    chunk = whole("linear_cross_entropy", "chunk", chunk)
    by_index = is_by_index("linear_cross_entropy", jax.ShapeDtypeStruct((*x.shape[:-1], w.shape[1]), x.dtype), target)

    # wide outside of the loop, which adds up their gradients
    w, b = _wide(w), [_wide(bias) for bias in b]

    @jax.checkpoint
    def part(x, target):
        logits = _wide_product(x, w.astype(x.dtype)).astype(w.dtype)
        logits = logits + b[0] if b else logits
        return softmax_cross_entropy(logits, target, smoothing=smoothing)

    examples = math.prod(x.shape[:-1])
    rows = x.reshape(examples, x.shape[-1])
    targets = target.reshape(examples, *(() if by_index else target.shape[-1:]))
    cut = examples // chunk * chunk
    # each chunk has rows from all over the batch: where it is cut over devices, all of them work on every chunk
    in_chunks = [a[:cut].reshape(chunk, examples // chunk, *a.shape[1:]).swapaxes(0, 1) for a in (rows, targets)]
    losses = jax.lax.map(lambda some: part(*some), in_chunks).swapaxes(0, 1).reshape(cut)
    rest = part(rows[cut:], targets[cut:])
    return jnp.concatenate([losses, rest]).reshape(x.shape[:-1])


@jax.custom_jvp
def _wide_product(x, w):
    """x @ w, summed and returned in float32 or better."""
    return jnp.matmul(x, w, preferred_element_type=wide(x.dtype))


@_wide_product.defjvp
def _(primals, tangents):
    """Products of the backward pass are bfloat16 where x is, and not of a float32 gradient, which costs several times as much.
    float16 has not the range of a mean's gradient."""
    (x, w), (dx, dw) = primals, tangents
    dtype = x.dtype if x.dtype == jnp.bfloat16 else wide(x.dtype)

    def product(x, w):
        return jnp.matmul(x, w, preferred_element_type=dtype).astype(wide(x.dtype))

    return _wide_product(x, w), product(dx, w) + product(x, dw)


def sigmoid_cross_entropy(prediction, target):
    """(..., n), (..., n) -> (...):  mean over the last axis of -t log sigmoid(p) - (1 - t) log(1 - sigmoid(p)).

    For n questions with the answer yes or no, of which any number may be yes.
    prediction: logits p. target: t in [0, 1], of any dtype.
    """
    _same_shapes("sigmoid_cross_entropy", prediction, target)
    prediction = _wide(prediction)
    target = target.astype(prediction.dtype)
    zero = jnp.zeros_like(prediction)
    # an infinite logit on the right side costs 0, and not 0 * inf
    yes = jnp.where(target == 0, zero, target * jax.nn.log_sigmoid(prediction))
    no = jnp.where(target == 1, zero, (1 - target) * jax.nn.log_sigmoid(-prediction))
    return -jnp.mean(yes + no, axis=-1)


def hinge(prediction, target, *, margin=1.0):
    """(..., classes), (...) -> (...):  sum over j != y of max(0, s_j - s_y + margin), the multi-class SVM.

    prediction: scores s. target: integers y in [0, classes); one out of range gives NaN. margin: may be traced.
    Weston & Watkins 1999; a sum, not a mean over the classes.
    """
    return jnp.sum(_violations("hinge", prediction, target, margin), axis=-1)


def squared_hinge(prediction, target, *, margin=1.0):
    """(..., classes), (...) -> (...):  sum over j != y of max(0, s_j - s_y + margin)^2. Arguments as for `hinge`."""
    return jnp.sum(jnp.square(_violations("squared_hinge", prediction, target, margin)), axis=-1)


def kl_divergence(prediction, target):
    """(..., classes), (..., classes) -> (...):  KL(target || prediction) = sum_c exp(t_c) (t_c - p_c).

    prediction, target: the logarithms p and t of probabilities, as log_softmax gives them. What has probability 0 under the
    target (t = -inf) costs nothing; what has it under the prediction only costs inf. Kullback & Leibler 1951.
    """
    _same_shapes("kl_divergence", prediction, target)
    prediction = _wide(prediction)
    target = target.astype(prediction.dtype)
    impossible = target == -jnp.inf
    zero = jnp.zeros_like(prediction)
    # replaced before and after: a derivative would meet 0 * inf
    t, p = jnp.where(impossible, zero, target), jnp.where(impossible, zero, prediction)
    return jnp.sum(jnp.where(impossible, zero, jnp.exp(t) * (t - p)), axis=-1)


def _violations(name, prediction, target, margin):
    """(..., classes), (...) -> (..., classes): max(0, s_j - s_y + margin), and 0 for j = y; NaN for y out of range."""
    _require_axis(name, prediction)
    classes = prediction.shape[-1]
    if not jnp.issubdtype(target.dtype, jnp.integer) or target.shape != prediction.shape[:-1]:
        raise ValueError(
            f"{name}: scores {prediction.shape} want integer targets of shape {prediction.shape[:-1]}, "
            f"got {target.dtype} {target.shape}"
        )
    scores = _wide(prediction)
    zero = jnp.zeros_like(scores)
    chosen, possible = _chosen(target, classes)
    right = jnp.sum(jnp.where(chosen, scores, zero), axis=-1, keepdims=True)
    over = jnp.maximum(scores - right + jnp.asarray(margin).astype(scores.dtype), 0)
    return jnp.where(possible[..., None], jnp.where(chosen, zero, over), jnp.full_like(scores, jnp.nan))


def _chosen(target, classes):
    """int (...) -> bool (..., classes), bool (...): one-hot, and whether there is such a class."""
    if target.dtype.itemsize < 4:
        target = target.astype(jnp.int32)  # 300 classes are 44 in uint8
    return jax.nn.one_hot(target, classes, dtype=bool), (target >= 0) & (target < classes)


def _require_axis(name, prediction):
    if not prediction.ndim:
        raise ValueError(f"{name}: expected a prediction (..., n), got a scalar")


def _same_shapes(name, prediction, target):
    _require_axis(name, prediction)
    if prediction.shape != target.shape:
        # (32, 1) against (32,) would broadcast to (32, 32) in silence
        raise ValueError(f"{name}: prediction {prediction.shape} and target {target.shape} differ in shape")


def _error(name, prediction, target):
    _same_shapes(name, prediction, target)
    prediction = _wide(prediction)
    return prediction - target.astype(prediction.dtype)


def _size(error):
    """|error|, with the derivative 0 at 0, where that of jnp.abs is 1."""
    return error * jnp.sign(error)


def _wide(x):
    return x.astype(wide(x.dtype))
