"""Recurrent layers: a sequence in, a sequence out.

All of them are `factory(..., return_state=False)` and
`apply(params, state, x, *, key=None, train=False, initial=None, lengths=None)`:

    x             (..., time, in), any leading axes
    initial       the cell's state before the first step, (..., features) in the dtype of x; None is zeros
    lengths       integers (...) from 0 to time, traced ones clipped to that: how many steps of each sequence count; None is
                  all. Steps past the length give zeros, leave the cell's state alone and get no gradient, so each sequence
                  gives what it gives alone
    return_state  True makes the result a pair (ys, final): `final` is the cell's state after the last step that counts, what
                  `initial` takes

`serial(gru(64, return_state=True), lambda ys, final: final, dense(10))` reads a class off the last step of each sequence.
`stateful(gru(64, return_state=True))` keeps the cell's state in its own, and goes on from there with the steps that come next.

Each gate's matrices are drawn by themselves, `w_init(key, (in, features), dtype)` and `wh_init(key, (features, features),
dtype)`, and laid side by side; `b_init` draws all of b at once. The recurrent matrices are orthogonal by default: they keep
the length of the state, and of the gradient on its way back (Saxe et al. 2014, "Exact solutions to the nonlinear dynamics of
learning in deep linear neural networks"); that of `jordan`, which maps outputs to features, is lecun_normal as the others.
All parameters are float32.
"""

import jax
import jax.numpy as jnp

from jnn.errors import LayerError
from jnn.initializers import lecun_normal, orthogonal, zeros
from jnn.layers.checks import describe, keys_for, require_array, require_floating, require_initializers, taken_state
from jnn.layers.recurrences import gru_states, lstm_states
from jnn.layers.sequences import (
    checked_lengths,
    counted,
    first_state,
    last_of,
    over_time,
    pair_of,
    reversed_in_time,
    sequence_weights,
    steps_of,
    varying,
)
from jnn.numbers import shown, whole
from jnn.pairs import as_layer, call, check_children, extra_arguments, forwarding, init_each, kind, split
from jnn.types import Layer


def rnn(features: int, *, return_state=False, w_init=lecun_normal(), wh_init=orthogonal(), b_init=zeros) -> Layer:
    """(..., time, in) -> (..., time, features):  h_t = tanh(x_t @ wx + h_{t-1} @ wh + b).

    Parameters: `wx (in, features)`, `wh (features, features)`, `b (features,)`.
    apply: initial `h (..., features)`, `lengths (...)`; with return_state=True the result is (ys, h).
    Raises LayerError when x, initial, lengths or a parameter has another shape or dtype. Elman 1990.
    """
    features = whole("rnn", "features", features)
    require_initializers("rnn", w_init=w_init, wh_init=wh_init, b_init=b_init)

    def init(key, x):
        require_floating("rnn", x, "(..., time, in)", 2)
        wx_key, wh_key, b_key = keys_for("rnn", key, 3)
        return {
            "wx": w_init(wx_key, (x.shape[-1], features), jnp.float32),
            "wh": wh_init(wh_key, (features, features), jnp.float32),
            "b": b_init(b_key, (features,), jnp.float32),
        }, {}

    def cell(wh, h, gates):
        h = jnp.tanh(gates + h @ wh)
        return h, h

    def apply(params, state, x, *, key=None, train=False, initial=None, lengths=None):
        wx, wh, b = sequence_weights("rnn", params, x, wx=("in", features), wh=(features, features), b=(features,))
        lengths = checked_lengths("rnn", lengths, x)
        h = first_state("rnn", "initial", initial, x, features)
        ys, h = over_time(cell, wh, h, wx, b, x, lengths)
        return (ys, h) if return_state else ys, state

    return Layer(init, apply)


def jordan(
    features: int,
    outputs: int,
    *,
    output_activation=lambda y: y,
    return_state=False,
    w_init=lecun_normal(),
    wh_init=lecun_normal(),
    b_init=zeros,
) -> Layer:
    """(..., time, in) -> (..., time, outputs):  h_t = tanh(x_t @ wx + y_{t-1} @ wh + b), y_t = activation(h_t @ wy + by).

    The output is fed back, and is all that the next step knows of this one.

    output_activation: a function of one array; by default y_t is linear.
    Parameters: `wx (in, features)`, `wh (outputs, features)`, `b (features,)`, `wy (features, outputs)` (drawn by w_init),
    `by (outputs,)`.
    apply: initial `y (..., outputs)`, `lengths (...)`; with return_state=True the result is (ys, y).
    Raises LayerError when x, initial, lengths or a parameter has another shape or dtype. Jordan 1986, "Serial order".
    """
    features = whole("jordan", "features", features)
    outputs = whole("jordan", "outputs", outputs)
    require_initializers("jordan", w_init=w_init, wh_init=wh_init, b_init=b_init)
    if not callable(output_activation):
        raise TypeError(f"jordan: output_activation must be a function of one array, got {shown(output_activation)}")

    def init(key, x):
        require_floating("jordan", x, "(..., time, in)", 2)
        wx_key, wh_key, b_key, wy_key, by_key = keys_for("jordan", key, 5)
        return {
            "wx": w_init(wx_key, (x.shape[-1], features), jnp.float32),
            "wh": wh_init(wh_key, (outputs, features), jnp.float32),
            "b": b_init(b_key, (features,), jnp.float32),
            "wy": w_init(wy_key, (features, outputs), jnp.float32),
            "by": b_init(by_key, (outputs,), jnp.float32),
        }, {}

    def cell(weights, y, gates):
        wh, wy, by = weights
        y = output_activation(jnp.tanh(gates + y @ wh) @ wy + by)
        return y, y

    def apply(params, state, x, *, key=None, train=False, initial=None, lengths=None):
        shapes = {"wx": ("in", features), "wh": (outputs, features), "b": (features,)}
        wx, wh, b, wy, by = sequence_weights("jordan", params, x, **shapes, wy=(features, outputs), by=(outputs,))
        lengths = checked_lengths("jordan", lengths, x)
        y = first_state("jordan", "initial", initial, x, outputs)
        ys, y = over_time(cell, (wh, wy, by), y, wx, b, x, lengths)
        return (ys, y) if return_state else ys, state

    return Layer(init, apply)


def lstm(features: int, *, return_state=False, w_init=lecun_normal(), wh_init=orthogonal(), b_init=zeros) -> Layer:
    """(..., time, in) -> (..., time, features):  c_t = f * c_{t-1} + i * g,  h_t = o * tanh(c_t); the output is h.

    i, f, o = sigmoid and g = tanh of (x_t @ wx + h_{t-1} @ wh + b), whose columns are i, f, g, o in this order.

    Parameters: `wx (in, 4 * features)`, `wh (features, 4 * features)`, `b (4 * features,)`, zero, the forget gate's part too.
    Jozefowicz et al. 2015 recommend 1 there:
    `b_init=lambda key, shape, dtype: jnp.repeat(jnp.array([0, 1, 0, 0], dtype), features)`.
    apply: initial, a pair `(h, c)`, each (..., features), `lengths (...)`; with return_state=True the result is (ys, (h, c)).
    Raises LayerError when x, initial, lengths or a parameter has another shape or dtype.
    Hochreiter & Schmidhuber 1997; the forget gate: Gers et al. 2000.
    """
    features = whole("lstm", "features", features)
    require_initializers("lstm", w_init=w_init, wh_init=wh_init, b_init=b_init)

    def init(key, x):
        require_floating("lstm", x, "(..., time, in)", 2)
        wx_key, wh_key, b_key = keys_for("lstm", key, 3)
        return {
            "wx": _gates(w_init, wx_key, (x.shape[-1], features), 4),
            "wh": _gates(wh_init, wh_key, (features, features), 4),
            "b": b_init(b_key, (4 * features,), jnp.float32),
        }, {}

    def apply(params, state, x, *, key=None, train=False, initial=None, lengths=None):
        shapes = {"wx": ("in", 4 * features), "wh": (features, 4 * features), "b": (4 * features,)}
        wx, wh, b = sequence_weights("lstm", params, x, **shapes)
        lengths = checked_lengths("lstm", lengths, x)
        h, c = pair_of("lstm", "initial", "(h, c)", initial)
        h = first_state("lstm", "h of initial", h, x, features)
        c = first_state("lstm", "c of initial", c, x, features)
        x, valid = steps_of(x, lengths)
        h, c = varying((h, c), (wx, wh, b, x, valid))
        hs, cs = lstm_states(wx, wh, b, h, c, x, valid)
        ys = counted(hs, valid)
        return (ys, (last_of(h, hs), last_of(c, cs))) if return_state else ys, state

    return Layer(init, apply)


def gru(
    features: int, *, reset_after=False, return_state=False, w_init=lecun_normal(), wh_init=orthogonal(), b_init=zeros
) -> Layer:
    """(..., time, in) -> (..., time, features):  h_t = (1 - z) * h_{t-1} + z * n,  n = tanh(x_t @ W + (r * h_{t-1}) @ U + c).

    r, z = sigmoid(x_t @ wx + h_{t-1} @ wh + b); the columns are r, z, n in this order, and W, U, c are the columns of n in
    wx, wh, b. The reset gate r is applied before the recurrent product, and z is the share of the new: Chung et al. 2014.

    reset_after: True gives the form of cuDNN and torch, with the reset gate after the product and z the share of the *old*:
    h_t = (1 - z) * n + z * h_{t-1},  n = tanh(x_t @ W + c + r * (h_{t-1} @ U + d)),  r, z = sigmoid(... + bh), where d is the
    columns of n in bh.
    Parameters: `wx (in, 3 * features)`, `wh (features, 3 * features)`, `b (3 * features,)`; with reset_after=True
    `bh (3 * features,)` too, drawn by b_init.
    apply: initial `h (..., features)`, `lengths (...)`; with return_state=True the result is (ys, h).
    Raises LayerError when x, initial, lengths or a parameter has another shape or dtype. Cho et al. 2014.
    """
    features = whole("gru", "features", features)
    require_initializers("gru", w_init=w_init, wh_init=wh_init, b_init=b_init)

    def init(key, x):
        require_floating("gru", x, "(..., time, in)", 2)
        wx_key, wh_key, b_key, bh_key = keys_for("gru", key, 4)
        params = {
            "wx": _gates(w_init, wx_key, (x.shape[-1], features), 3),
            "wh": _gates(wh_init, wh_key, (features, features), 3),
            "b": b_init(b_key, (3 * features,), jnp.float32),
        }
        if reset_after:
            params["bh"] = b_init(bh_key, (3 * features,), jnp.float32)
        return params, {}

    def cell(wh, h, gates):
        r_z = gates[..., : 2 * features] + h @ wh[:, : 2 * features]
        r, z = jnp.split(jax.nn.sigmoid(r_z), 2, -1)
        n = jnp.tanh(gates[..., 2 * features :] + (r * h) @ wh[:, 2 * features :])
        h = (1 - z) * h + z * n
        return h, h

    def apply(params, state, x, *, key=None, train=False, initial=None, lengths=None):
        shapes = {"wx": ("in", 3 * features), "wh": (features, 3 * features), "b": (3 * features,)}
        shapes |= {"bh": (3 * features,)} if reset_after else {}
        wx, wh, b, *bh = sequence_weights("gru", params, x, **shapes)
        lengths = checked_lengths("gru", lengths, x)
        h = first_state("gru", "initial", initial, x, features)
        if reset_after:
            x, valid = steps_of(x, lengths)
            h = varying(h, (wx, wh, b, x, valid))
            hs = gru_states(wx, wh, b, *bh, h, x, valid)
            ys, h = counted(hs, valid), last_of(h, hs)
        else:
            ys, h = over_time(cell, wh, h, wx, b, x, lengths)
        return (ys, h) if return_state else ys, state

    return Layer(init, apply)


def _gates(initializer, key, shape, count):
    """(in, count * features): one matrix for each gate, side by side."""
    # a loop and not a list: XLA compiles the initializer once
    matrices = jax.lax.map(lambda key: initializer(key, shape, jnp.float32), jax.random.split(key, count))
    return jnp.swapaxes(matrices, 0, 1).reshape(shape[0], count * shape[1])


def bidirectional(layer) -> Layer:
    """(..., time, in) -> (..., time, 2 * features):  concat(forward(x), reversed(backward(reversed(x)))).

    layer: a recurrent layer, used twice with parameters of its own each time, or any Layer from a sequence to one of as many
    steps.
    Parameters: `forward` and `backward`, each those of `layer`.
    apply takes what `layer` takes. initial: a pair (forward, backward), either may be None. lengths: each sequence is reversed
    within its length. Other arguments go to both as they are. Where `layer` returns (ys, final), so does this, with
    `final` a pair (forward, backward).
    Raises LayerError when given `initial` or `lengths` that `layer` does not take. Schuster & Paliwal 1997.
    """
    layer = as_layer(layer)
    directions = "forward", "backward"

    def init(key, x):
        require_array("bidirectional", x, "(..., time, in)", 2)
        return init_each(dict.fromkeys(directions, layer), key, (x, x))

    def apply(params, state, x, *, key, train, extra):
        check_children("bidirectional", params, state, directions)
        require_array("bidirectional", x, "(..., time, in)", 2)
        lengths = checked_lengths("bidirectional", extra.get("lengths"), x)
        initials = pair_of("bidirectional", "initial", "(forward, backward)", extra.get("initial"))
        ys, finals, new_state = [], [], {}
        for name, layer_key, initial in zip(directions, split(key, 2), initials, strict=True):
            given = {**extra, "initial": initial} if "initial" in extra else extra
            turned = reversed_in_time(x, lengths) if name == "backward" else x
            y, layer_state = call(
                name, layer, params.get(name, {}), state.get(name, {}), turned, key=layer_key, train=train, extra=given
            )
            y, *final = y if type(y) is tuple and len(y) == 2 else (y,)
            if getattr(y, "shape", ())[:-1] != x.shape[:-1]:
                problem = f"expected {name} to return a sequence of as many steps as it got, {x.shape}, got {describe(y)}"
                raise LayerError("bidirectional", problem)
            ys.append(reversed_in_time(y, lengths) if name == "backward" else y)
            finals += final
            if layer_state:
                new_state[name] = layer_state
        y = jnp.concatenate(ys, -1)
        return (y, tuple(finals)) if finals else y, new_state

    return Layer(init, forwarding("bidirectional", [layer], apply))


def stateful(layer) -> Layer:
    """(..., time, in) -> (..., time, features):  the same layer, which goes on where it stopped: x holds the steps that come
    next.

    layer: a recurrent layer made with return_state=True, or any Layer that takes `initial` and returns (ys, final), whose
        zeros are the state before the first step.
    Parameters: those of `layer`, under its name. So a model that is trained without it decodes with it.
    State: `final`, what `layer` returns as such, an entry "0", "1", ... for each part of a tuple; zeros from `init`, for as
    many sequences as the x it was given; and `layer`, the state of `layer`, where it has some.
    apply takes what `layer` takes but `initial`: with `lengths` each sequence goes on from its last step that counts.
    Raises LayerError when `layer` returns no pair or x has other leading axes than the state.
    """
    layer = as_layer(layer)
    if kind(layer) == "bidirectional":
        raise ValueError("stateful: a bidirectional layer begins at the end of a sequence, which is still to come")
    if "initial" not in extra_arguments(layer):
        raise TypeError(f"stateful: needs a layer that takes `initial`, as jnn.lstm does, got {kind(layer)}")

    def pair(y):
        if type(y) is not tuple or len(y) != 2:
            problem = f"stateful needs the pair (ys, final), got {describe(y)}: make the layer with return_state=True"
            raise LayerError(kind(layer), problem)
        return y

    def kept(final, own):
        return {"final": _tuples_as_dicts(final), **({"layer": own} if own else {})}

    def init(key, x):
        params, own = layer.init(key, x)
        _, final = jax.eval_shape(lambda params, own, x: pair(layer.apply(params, own, x)[0]), params, own, x)
        return params, kept(jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), final), own)

    def apply(params, state, x, *, key, train, extra):
        own = state.get("layer", {})
        (before,) = taken_state(kind(layer), {name: part for name, part in state.items() if name != "layer"}, "final")
        # in the dtype of x, which is another under `precision`
        initial = jax.tree.map(lambda a: jnp.asarray(a).astype(x.dtype), _dicts_as_tuples(before))
        y, own = layer.apply(params, own, x, key=key, train=train, initial=initial, **extra)
        ys, final = pair(y)
        final = jax.tree.map(lambda new, old: new.astype(old.dtype), _tuples_as_dicts(final), before)
        return ys, kept(final, own)

    init.__qualname__ = getattr(layer.init, "__qualname__", "layer")
    return Layer(init, forwarding(kind(layer), [layer], apply, but=("initial",)))


def _tuples_as_dicts(final):
    """A state is nested dicts of arrays: tuples as dicts of "0", "1", ..."""
    if isinstance(final, tuple):
        return {str(i): _tuples_as_dicts(part) for i, part in enumerate(final)}
    return {name: _tuples_as_dicts(part) for name, part in final.items()} if isinstance(final, dict) else final


def _dicts_as_tuples(kept):
    if not isinstance(kept, dict):
        return kept
    parts = {name: _dicts_as_tuples(part) for name, part in kept.items()}
    places = [str(i) for i in range(len(parts))]
    return tuple(parts[i] for i in places) if set(parts) == set(places) else parts
