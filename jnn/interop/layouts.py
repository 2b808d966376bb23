"""What becomes of the tensors of a torch module: which arrays of a jnn layer, and in which layout."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

Source = str | tuple  # "features.0", ("up", "conv_transpose"), or of one array ("fc.weight", function), ("a", "b", function)


class Plan(NamedTuple):
    """How one array of the model is made."""

    path: str
    tensors: tuple[str, ...]
    convert: Callable[..., Any]
    how: str
    in_state: bool = False


class UnclearError(ValueError):
    """A source that says nothing about an array."""


def plans_of(path, source, params, state, tensors) -> list[Plan]:
    """How the arrays of a layer, or the one array, at `path` are made. Raises UnclearError."""
    if path in params or path in state:
        return [_plan_of_one(path, source, path not in params, (params if path in params else state)[path])]
    module, *layout = (source,) if isinstance(source, str) else source
    arrays = _inside(path, params)
    carried = _inside(path, state)
    count = module.count("{}")
    if count > 1:
        raise UnclearError(f"{path}: {quoted(module)} has more than one {{}}")
    if not count:
        return _module_plans(path, module, layout, arrays, carried, tensors, 0)
    layers = next(iter((arrays or carried).values())).shape[0]
    each = [_module_plans(path, _numbered(module, i), layout, arrays, carried, tensors, 1) for i in range(layers)]
    return [_stacked(same) for same in zip(*each, strict=True)]


def _stacked(plans) -> Plan:
    """One plan for the arrays of all layers that `repeat` has stacked."""
    counts = [len(plan.tensors) for plan in plans]

    def convert(*arrays):
        rest = iter(arrays)
        return np.stack([plan.convert(*(next(rest) for _ in range(n))) for plan, n in zip(plans, counts, strict=True)])

    tensors = tuple(name for plan in plans for name in plan.tensors)
    return plans[0]._replace(tensors=tensors, convert=convert, how=f"{plans[0].how}, {len(plans)} stacked")


def _plan_of_one(path, source, in_state, leaf) -> Plan:
    """The plan of an array that is named by itself."""
    *names, convert = (source, _as_it_is) if isinstance(source, str) else source
    if not callable(convert) or not names:
        raise UnclearError(f"{path}: expected a tensor, or (tensor, ..., function), got {source!r}")
    how = "as it is" if convert is _as_it_is else getattr(convert, "__name__", "converted")
    plan = Plan(path, tuple(names), convert, how, in_state)
    if not any("{}" in name for name in names):
        return plan
    return _stacked([plan._replace(tensors=tuple(_numbered(n, i) for n in names)) for i in range(leaf.shape[0])])


def _numbered(name, i):
    return name.replace("{}", str(i))


def _module_plans(path, module, layout, arrays, carried, tensors, stacked) -> list[Plan]:
    """The plans of one torch module, by what the jnn layer has."""
    module, _, cell = module.partition(":")
    prefix = f"{module}." if module else ""
    children = {name.split("/")[0] for name in arrays}
    at = f"{path}/" if path else ""
    if layout and layout != ["conv_transpose"]:
        raise UnclearError(f"{path}: expected a module, or (module, 'conv_transpose'), got {(module, *layout)!r}")

    def plan(name, convert, how, *sources, in_state=False):
        return Plan(at + name, tuple(prefix + source for source in sources), convert, how, in_state)

    def bias(name, *sources, weight, convert=None, how="as it is"):
        """Zeros where the module has its weight and no bias."""
        if prefix + weight in tensors and not any(prefix + source in tensors for source in sources):
            return plan(name, _as_it_is, "zeros: the module has no bias")
        return plan(name, convert or _as_it_is, how, *sources)

    if children == {"forward", "backward"}:
        cell = cell or "l0"
        return [
            made
            for side, suffix in (("forward", cell), ("backward", f"{cell}_reverse"))
            for made in _module_plans(at + side, f"{module}:{suffix}", [], _inside(side, arrays), {}, tensors, stacked)
        ]
    if children == {"q", "k", "v", "out"}:
        return _attention_plans(plan, bias, prefix, tensors)
    if {"wx", "wh", "b"} <= children <= {"wx", "wh", "b", "bh"}:
        return _recurrent_plans(path, plan, bias, prefix, cell, arrays, tensors)
    if "w" in children and children <= {"w", "b"}:
        rank = arrays["w"].ndim - stacked
        if rank == 2:
            weight = plan("w", np.transpose, "transposed", "weight")
        else:
            transposed = bool(layout) or path.split("/")[-1].startswith("conv_transpose")
            convert = partial(_mirrored, channels=arrays["w"].shape[-2]) if transposed else _kernel
            spatial = "DHW"[5 - rank :] if rank > 3 else "W"
            how = f"IO{spatial} -> {spatial}IO, mirrored" if transposed else f"OI{spatial} -> {spatial}IO"
            weight = plan("w", convert, how, "weight")
        return [weight, *([bias("b", "bias", weight="weight")] if "b" in children else [])]
    if "scale" in children and children <= {"scale", "bias"}:
        made = [plan("scale", _as_it_is, "as it is", "weight")]
        made += [bias("bias", "bias", weight="weight")] if "bias" in children else []
        return made + [plan(name, _as_it_is, "as it is", f"running_{name}", in_state=True) for name in carried]
    if len(children) == 1 and children <= {"table", "slope"}:
        return [plan(*children, _as_it_is, "as it is", "weight")]
    has = ", ".join(sorted(children)) or "no parameters"
    raise UnclearError(f"{path}: no layer that torch has, with {has}: name its layers, or its arrays one by one")


def _recurrent_plans(path, plan, bias, prefix, cell, arrays, tensors):
    if not cell:
        cell = "" if f"{prefix}weight_ih" in tensors else "l0"
    end = f"_{cell}" if cell else ""
    inputs, recurrent = f"weight_ih{end}", f"weight_hh{end}"
    biases = f"bias_ih{end}", f"bias_hh{end}"
    made = [plan("wx", np.transpose, "transposed", inputs), plan("wh", np.transpose, "transposed", recurrent)]
    if "bh" in arrays:
        return [*made, bias("b", biases[0], weight=inputs), bias("bh", biases[1], weight=inputs)]
    features, gates = arrays["wh"].shape[-2:]
    if gates == 3 * features:
        raise UnclearError(f"{path}: torch's GRU is gru(features, reset_after=True), whose reset gate comes after the product")
    return [*made, bias("b", *biases, weight=inputs, convert=np.add, how="bias_ih + bias_hh")]


def _attention_plans(plan, bias, prefix, tensors):
    made = []
    together = f"{prefix}in_proj_weight" in tensors or f"{prefix}q_proj_weight" not in tensors
    for i, name in enumerate("qkv"):
        if together:
            made.append(plan(f"{name}/w", partial(_third_transposed, i), f"{name} of q, k, v, transposed", "in_proj_weight"))
        else:
            made.append(plan(f"{name}/w", np.transpose, "transposed", f"{name}_proj_weight"))
        third, how = partial(_third, i), f"{name} of q, k, v"
        made.append(bias(f"{name}/b", "in_proj_bias", weight="out_proj.weight", convert=third, how=how))
    made.append(plan("out/w", np.transpose, "transposed", "out_proj.weight"))
    made.append(bias("out/b", "out_proj.bias", weight="out_proj.weight"))
    return made


def _as_it_is(array):
    return array


def _kernel(array):
    """(out, in, *window) -> (*window, in, out)"""
    return np.moveaxis(array, (1, 0), (-2, -1))


def _mirrored(array, channels):
    """(in, out / groups, *window) -> (*window, in / groups, out), mirrored; in / groups are `channels`."""
    total, out, *window = array.shape
    array = array.reshape(total // channels, channels, out, *window)  # group, in, out, *window
    array = np.moveaxis(array, (1, 0, 2), (-3, -2, -1))
    return np.flip(array.reshape(*window, channels, -1), tuple(range(len(window))))


def _third(i, array):
    return np.split(array, 3)[i]


def _third_transposed(i, array):
    return _third(i, array).T


def quoted(name) -> str:
    return f"'{name}'"


def _inside(path, flat: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays of a branch, by their paths within it."""
    start = f"{path}/" if path else ""
    return {name.removeprefix(start): leaf for name, leaf in flat.items() if name.startswith(start)}
