"""A model as a table: what each layer returns, holds and costs."""

from collections.abc import Mapping
from html import escape
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jnn.costs import flops_by_path
from jnn.pairs import Call, as_layer, kind, watch
from jnn.types import PyTree

COLUMNS = ("path", "kind", "output", "parameters", "bytes", "FLOPs")


class Row(NamedTuple):
    """One layer, with all that is inside it."""

    path: str  # of its parameters: "residual_2/layer/dense_0"; "" for a model that is one layer
    kind: str  # its factory, or the function's name
    outputs: tuple[PyTree, ...]  # shapes and dtypes of what it returns: one, or more where it is called on different shapes
    parameters: int
    parameter_bytes: int
    state: int
    state_bytes: int
    flops: int | None  # of one application to x; None where it cannot be known

    def cells(self) -> tuple[str, ...]:
        outputs = " | ".join(_describe(output) for output in self.outputs)
        flops = "?" if self.flops is None else _scaled(self.flops, ("", "k", "M", "G", "T", "P"))
        return self.path or ".", self.kind, outputs, f"{self.parameters:,}", _bytes(self.parameter_bytes), flops


class Summary(NamedTuple):
    """A table of layers: prints itself as text, in a terminal by rich and in notebooks as HTML."""

    rows: tuple[Row, ...]
    total: Row

    def __str__(self) -> str:
        table = [COLUMNS, *(row.cells() for row in self.rows)]
        total = self.total.cells()
        widths = [max(len(row[i]) for row in [*table, total]) for i in range(len(COLUMNS))]

        def line(cells):
            left = [cell.ljust(width) for cell, width in zip(cells[:3], widths[:3], strict=True)]
            right = [cell.rjust(width) for cell, width in zip(cells[3:], widths[3:], strict=True)]
            return "  ".join([*left, *right]).rstrip()

        rule = "  ".join("-" * width for width in widths)
        return "\n".join([line(table[0]), rule, *map(line, table[1:]), rule, line(total), *self._notes()])

    __repr__ = __str__

    def __rich__(self):
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, show_footer=True, caption="\n".join(self._notes()) or None, caption_justify="left")
        for i, (title, total) in enumerate(zip(COLUMNS, self.total.cells(), strict=True)):
            # where it is narrow, the text is broken, and no digit lost
            width = max(len(row.cells()[i]) for row in [*self.rows, self.total]) if i >= 3 else None
            justify = "left" if i < 3 else "right"
            table.add_column(title, Text(total), justify=justify, min_width=width, overflow="fold", footer_style="bold")
        for row in self.rows:
            table.add_row(*map(Text, row.cells()), style="dim" if self._is_container(row) else None)
        return table

    def _repr_html_(self) -> str:
        def line(tag, cells, style=""):
            aligns = ["left"] * 3 + ["right"] * 3
            aligned = [
                f'<{tag} style="text-align: {align}; padding: 0.1em 0.7em; white-space: nowrap">{escape(cell)}</{tag}>'
                for cell, align in zip(cells, aligns, strict=True)
            ]
            return f"<tr{style}>{''.join(aligned)}</tr>"

        rows = [line("td", row.cells(), ' style="opacity: 0.65"' if self._is_container(row) else "") for row in self.rows]
        notes = "".join(f"<p>{escape(note)}</p>" for note in self._notes())
        return (
            f'<div style="overflow-x: auto"><table><thead>{line("th", COLUMNS)}</thead><tbody>{"".join(rows)}</tbody>'
            f"<tfoot>{line('th', self.total.cells())}</tfoot></table>{notes}</div>"
        )

    def _is_container(self, row: Row) -> bool:
        return bool(row.path) and any(other.path.startswith(f"{row.path}/") for other in self.rows)

    def _notes(self) -> list[str]:
        notes = []
        if self.total.state:
            notes.append(f"state: {self.total.state:,} numbers, {_bytes(self.total.state_bytes)}")
        if self.total.flops is None:
            notes.append("? a loop of unknown length, or code that XLA does not see")
        return notes


def summary(model, x, **extra) -> Summary:
    """A table with a row for each layer: path, kind, shape of the output, parameters, their bytes, FLOPs.

        print(jnn.summary(model, jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)))

    model: a Layer, a pair of functions of its form, or a plain function.
    x: what the model is applied to: an array, a `jax.ShapeDtypeStruct`, or a pytree of them. Only shapes and dtypes are read,
        and nothing is computed.
    extra: further arguments of the model's apply (`lengths`, `mask`), likewise.

    A layer made of layers has a row as well, before theirs, and counts all that is inside it; a layer called twice has its
    parameters once, and the FLOPs of both calls. FLOPs are those of one application with train=False, as XLA's cost analysis
    counts them before optimization, with loops (`repeat`, recurrent layers) as often as they run: a multiplication and an
    addition are two, products with padding none, exponentials and the like are left out. Where they cannot be known
    (`lax.while_loop`, hand-written kernels) stands "?", and None in the row.

    Returns Summary(rows, total): `total` is the row of the whole model. Raises what the model raises for such an x.
    """
    model = as_layer(model)
    x, extra = _shapes((x, extra))
    params, state = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), x)
    calls: list[tuple[Call, Any]] = []

    def apply(params, state, x, extra):
        with watch(lambda call: calls.append((call, _shapes(call.y)))):
            return model.apply(params, state, x, **extra)[0]

    program, output = jax.make_jaxpr(apply, return_shape=True)(params, state, x, extra)
    kinds: dict[tuple[str, ...], str] = {}
    outputs: dict[tuple[str, ...], list] = {}
    for call, y in calls:
        kinds[call.path] = kind(call.layer)
        seen = outputs.setdefault(call.path, [])
        if y not in seen:
            seen.append(y)
    paths = _tree_order(outputs)
    flops = flops_by_path(program, [(), *paths])

    def row(path, path_text, kind, outputs) -> Row:
        counts = [_size(_at(tree, path)) for tree in (params, state)]
        operations = flops[path]
        return Row(path_text, kind, tuple(outputs), *counts[0], *counts[1], None if operations is None else int(operations))

    rows = [row(path, "/".join(path), kinds[path], outputs[path]) for path in paths]
    total = row((), "total", kind(model), [output])
    return Summary(tuple(rows or [total._replace(path="")]), total)


def _tree_order(paths) -> list[tuple[str, ...]]:
    """A layer before those inside it; calls come the other way round."""
    ordered: list[tuple[str, ...]] = []
    for path in paths:
        inside = (i for i, other in enumerate(ordered) if other[: len(path)] == path)
        ordered.insert(next(inside, len(ordered)), path)
    return ordered


def _shapes(tree):
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(jnp.shape(a), jnp.result_type(a)), tree)


def _at(tree, path):
    for name in path:
        tree = tree.get(name, {}) if isinstance(tree, Mapping) else {}
    return tree


def _size(tree) -> tuple[int, int]:
    """-> (numbers, bytes)"""
    leaves = jax.tree.leaves(tree)
    return sum(leaf.size for leaf in leaves), sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def _describe(output) -> str:
    leaves = [f"{leaf.shape}" + ("" if leaf.dtype == jnp.float32 else f" {leaf.dtype}") for leaf in jax.tree.leaves(output)]
    return ", ".join(leaves) or "nothing"


def _bytes(n: int) -> str:
    return _scaled(n, ("B", "kB", "MB", "GB", "TB"))


def _scaled(n: float, units: tuple[str, ...]) -> str:
    """1300000 -> "1.3 M", of units that are powers of a thousand"""
    power = 0
    while n >= 999.95 and power < len(units) - 1:
        n, power = n / 1000, power + 1
    return f"{n:,.1f} {units[power]}".rstrip() if power else f"{n:,.0f} {units[0]}".rstrip()
