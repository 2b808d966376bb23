"""Weights of torch in jnn's models: whose is which, by a mapping of names, and their layouts."""

import difflib
import fnmatch
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jnn import tree
from jnn.interop.files import arrays_in
from jnn.interop.layouts import Plan, Source, UnclearError, plans_of, quoted


class StateDictError(ValueError):
    """A state dict and a model that do not fit; `problems` has one sentence for each array or tensor."""

    def __init__(self, problems: Iterable[str]):
        self.problems = tuple(problems)
        super().__init__("the state dict does not fit the model:\n" + "\n".join(f"  {problem}" for problem in self.problems))


class Match(NamedTuple):
    """An array of the model, and where it came from."""

    path: str
    shape: tuple[int, ...]
    tensors: tuple[str, ...]
    how: str


class Report(NamedTuple):
    """What was loaded; `str` of it is a table."""

    matches: tuple[Match, ...]
    ignored: tuple[str, ...]  # tensors

    def __str__(self) -> str:
        rows = [(m.path, str(m.shape), _listed(m.tensors), m.how) for m in self.matches]
        rows = [("path", "shape", "from", "how"), *rows]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = ["  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]]) for row in rows]
        return "\n".join([*lines, f"ignored: {', '.join(self.ignored) or 'nothing'}"])


class Loaded(NamedTuple):
    """A model's parameters and state, and where they came from."""

    params: dict[str, Any]
    state: dict[str, Any]
    report: Report


def load_state_dict(
    weights: str | os.PathLike | Mapping[str, Any],
    like: tuple[Any, Any],
    names: Mapping[str, Source] | Callable[[str], Source | None],
    *,
    ignore: str | Iterable[str] = (),
) -> Loaded:
    """A torch state dict as (params, state, report) of a jnn model.

        like = jax.eval_shape(model.init, key, x)
        names = {"conv_0": "features.0", "batch_norm_1": "features.1", "block_*/dense_0": "blocks.*.fc", "dense_5": "head"}
        params, state, report = jnn.interop.load_state_dict("net.safetensors", like, names)

    weights: a safetensors file (`safetensors.torch.save_file(net.state_dict(), "net.safetensors")`), or {name: tensor}.
    like: the model's (params, state), arrays or shapes.
    names: {path of a layer: name of the torch module}. A "*" in a path stands for any text within one name, and a "*" in
        the module's name for the same text. "{}" in a module's name counts the layers that `repeat` has stacked: "h.{}.attn".
        Of a recurrent module ":l1" says the layer, "lstm:l1", "lstm:l0_reverse"; without it the first, or a cell.
        ("up", "conv_transpose") says that a convolution is a transposed one, where the layer is not called so.
        One array is named by its own path: {"norm/scale": "norm.gamma"} as it is, {"dense_0/w": ("fc.weight", np.transpose)},
        a function of one tensor or of several.
        Or a function: path of a layer -> name of its module, or None.
    ignore: a pattern of tensors that are left out on purpose, "*.attn.mask", or several. `num_batches_tracked` always is.

    What becomes of what: weight of Linear (out, in) -> `w (in, out)`; of Conv OIHW -> `w` HWIO, and so with one or three
    spatial axes; of ConvTranspose IOHW -> HWIO, mirrored; of Embedding -> `table`; of a norm -> `scale`, `bias`, and
    running_mean, running_var -> the state `mean`, `var`; of PReLU -> `slope`; RNN, LSTM, GRU: weight_ih -> `wx`, weight_hh ->
    `wh`, both transposed, bias_ih + bias_hh -> `b`, but of a GRU, which must be `gru(features, reset_after=True)`, bias_ih ->
    `b` and bias_hh -> `bh`; MultiheadAttention -> `q`, `k`, `v`, `out`. Where a module has a weight and no bias, `b` is zeros.
    All take the dtypes of `like`.

    Raises StateDictError, which names every array without a source, every tensor that is missing or not used, and every
    shape that differs, with both; TypeError where `like` is no such pair.
    """
    if not (isinstance(like, tuple | list) and len(like) == 2 and all(isinstance(part, Mapping) for part in like)):
        raise TypeError(
            "load_state_dict: expected like to be (params, state), as jax.eval_shape(model.init, key, x) gives them, "
            f"got {type(like).__name__}"
        )
    ignore = (ignore,) if isinstance(ignore, str) else tuple(ignore)
    tensors = {n: _numpy(a) for n, a in weights.items()} if isinstance(weights, Mapping) else arrays_in(weights)
    params, state = (tree.flatten(part) for part in like)
    problems: list[str] = []
    plans: dict[tuple[bool, str], Plan] = {}
    sources = _chosen(names, params) if callable(names) else _matched(names, params, state, problems)
    for path, source in sources.items():
        try:
            of_module = plans_of(path, source, params, state, tensors)
        except UnclearError as error:
            problems.append(str(error))
            continue
        for plan in of_module:
            target = (plan.in_state, plan.path)
            if target in plans:
                problems.append(f"{plan.path}: named twice, {_listed(plans[target].tensors)} and {_listed(plan.tensors)}")
            plans[target] = plan

    used = {name for plan in plans.values() for name in plan.tensors}
    ignored = tuple(n for n in tensors if n not in used and any(fnmatch.fnmatchcase(n, p) for p in (*ignore, *_IGNORED)))
    made: tuple[dict, dict] = ({}, {})
    matches = []
    for in_state, flat in enumerate((params, state)):
        for path, leaf in flat.items():
            plan = plans.get((bool(in_state), path))
            try:
                if plan is None:
                    raise UnclearError(f"{path} {leaf.shape}: no source in names")
                made[in_state][path] = _converted(leaf, plan, tensors)
                matches.append(Match(path, tuple(leaf.shape), plan.tensors, plan.how))
            except UnclearError as error:
                problems.append(str(error))
    problems += [f"{quoted(n)} {a.shape}: not used" for n, a in tensors.items() if n not in used and n not in ignored]
    if problems:
        raise StateDictError(problems)
    return Loaded(tree.unflatten(made[0]), tree.unflatten(made[1]), Report(tuple(matches), ignored))


_IGNORED = ("*num_batches_tracked",)


def _converted(leaf, plan: Plan, tensors):
    """The array of the model. Raises UnclearError with what is wrong with its sources."""
    path = plan.path
    missing = [name for name in plan.tensors if name not in tensors]
    if missing:
        raise UnclearError(f"{path} {leaf.shape}: {', '.join(map(quoted, missing))} not in the state dict")
    arrays = [tensors[name] for name in plan.tensors]
    given = " and ".join(f"{quoted(name)} {a.shape}" for name, a in zip(plan.tensors[:3], arrays, strict=False))
    try:
        array = np.asarray(plan.convert(*arrays)) if arrays else np.zeros(leaf.shape, leaf.dtype)
    except (ValueError, IndexError, TypeError) as error:
        raise UnclearError(f"{path}: expected {leaf.shape}, got {given}: {error}") from error
    if array.shape != tuple(leaf.shape):
        raise UnclearError(f"{path}: expected {leaf.shape}, got {array.shape} from {given}")
    if jnp.issubdtype(array.dtype, jnp.floating) != jnp.issubdtype(leaf.dtype, jnp.floating):
        raise UnclearError(f"{path}: expected {leaf.dtype}, got {array.dtype} from {given}")
    return jnp.asarray(array.astype(leaf.dtype))


def _matched(names, params, state, problems) -> dict[str, Source]:
    branches = _branches([*params, *state])
    found: dict[str, Source] = {}
    for pattern, source in names.items():
        if not isinstance(source, str | tuple) or source == ():
            problems.append(f"{pattern}: expected the name of a module, or a tuple that begins with one, got {source!r}")
            continue
        regex = re.compile("([^/]+)".join(map(re.escape, pattern.strip("/").split("*"))))
        hits = [(path, m) for path in (*branches, *params, *state) if (m := regex.fullmatch(path))]
        if not hits:
            alike = [path for path in (*branches, *params) if path.count("/") == pattern.count("/")]
            near = difflib.get_close_matches(pattern, alike, n=3, cutoff=0.5)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            problems.append(f"{pattern}: the model has no such path{hint}")
        for path, hit in hits:
            parts = [source] if isinstance(source, str) else list(source)
            found[path] = (
                _filled(pattern, parts[0], hit.groups())
                if len(parts) == 1
                else tuple(_filled(pattern, part, hit.groups()) if isinstance(part, str) else part for part in parts)
            )
    return found


def _filled(pattern, module: str, texts) -> str:
    """The module's name with the texts in place of its "*"."""
    if module.count("*") > len(texts):
        raise ValueError(f"load_state_dict: {quoted(module)} has more * than {quoted(pattern)}")
    for text in texts:
        module = module.replace("*", text, 1)
    return module


def _chosen(function, params) -> dict[str, Source]:
    """The layers, outermost first, for which the function has a name."""
    found: dict[str, Source] = {}
    for path in _branches(params):
        inside = any(path.startswith(f"{other}/") for other in found)
        source = None if inside else function(path)
        if source is not None:
            found[path] = source
    return found


def _branches(paths) -> list[str]:
    """All beginnings of paths, the root "" first."""
    found = dict.fromkeys([""])
    for path in paths:
        names = path.split("/")
        found.update(dict.fromkeys("/".join(names[:n]) for n in range(1, len(names))))
    return list(found)


def _listed(names) -> str:
    if len(names) > 3:
        return f"{names[0]}, ..., {names[-1]}"
    return ", ".join(names) or "-"


def _numpy(value) -> np.ndarray:
    """A torch tensor or whatever numpy takes; torch's bfloat16 has no way to numpy but by float32."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if str(value.dtype) == "torch.bfloat16" else value
        return value.numpy()
    return np.asarray(value)
