"""The reference, read off the library: which names are public, and their docstrings as reStructuredText.

    ```{eval-rst}
    .. public:: jnn.layers.linear
    ```

documents everything public that is made in that module. What is public is imported by `jnn/__init__.py`, or is in `__all__` of
a module that it imports (or made in it, where there is no `__all__`)."""

import ast
import inspect
import re
import textwrap
from types import ModuleType
from typing import Any

import jnn


def families() -> dict[str, ModuleType]:
    """The public modules: those that `jnn/__init__.py` imports by name."""
    imports = [node for node in ast.parse(inspect.getsource(jnn)).body if isinstance(node, ast.ImportFrom)]
    names = [alias.asname or alias.name for node in imports if node.module == "jnn" for alias in node.names]
    return {f"jnn.{name}": getattr(jnn, name) for name in names}


def everything() -> dict[str, Any]:
    """{"jnn.dense": dense, "jnn.losses.huber": huber, ...}: all public functions and classes under their one name."""
    root = {f"jnn.{name}": value for name, value in vars(jnn).items() if _is_public(name, value)}
    for family, module in families().items():
        made_here = [name for name, value in vars(module).items() if getattr(value, "__module__", None) == family]
        names = getattr(module, "__all__", made_here)
        root |= {f"{family}.{name}": vars(module)[name] for name in names if _is_public(name, vars(module)[name])}
    return root


def public(module: str) -> dict[str, Any]:
    """Of everything public, what a module holds: a family what is imported from it, another what is made in it."""
    if module in families():
        found = {name: value for name, value in everything().items() if name.rpartition(".")[0] == module}
    else:
        found = {name: value for name, value in everything().items() if name.count(".") == 1 and _is_made_in(module, value)}
    return dict(sorted(found.items(), key=_place))


def _is_made_in(module, value) -> bool:
    return value.__module__ == module or value.__module__.startswith(f"{module}.")


def _place(item):
    """Where it stands in the source: an author's order says more than the alphabet."""
    try:
        return item[1].__module__, inspect.getsourcelines(item[1])[1]
    except (OSError, TypeError):
        return "", 0


def _is_public(name, value) -> bool:
    return not name.startswith("_") and (inspect.isclass(value) or callable(value))


PARAMETER = re.compile(r"((?:\*{0,2}[a-z]\w*)(?:, \*{0,2}[a-z]\w*)*): (.*)")
HEADING = re.compile(r"^((Parameters and state|Parameters|State)(?=:)|(Raises|Returns)\b)")


def to_rst(text: str) -> list[str]:
    """A docstring of jnn as lines of reStructuredText.

    The first paragraph is set as code where it is a type or a formula; `name: text` becomes an entry of a definition list;
    an indented block stays as it is; paragraphs begin where a line begins with Parameters, Returns or Raises."""
    lines = inspect.cleandoc(text).splitlines()
    opening = _take(lines, lambda line: line.strip() and not line.startswith(("- ", "    ")))
    out = [*(_code(opening, "formula") if _is_formula(opening) else _inline(opening)), ""]
    while lines:
        if not lines[0].strip():
            lines.pop(0)
        elif lines[0].startswith(" "):
            out += _code(_take(lines, lambda line: line.startswith(" ") or not line.strip()))
        elif lines[0].startswith("- "):
            out += _inline(_take(lines, lambda line: line.startswith((" ", "- "))))
        elif match := PARAMETER.fullmatch(lines[0]):
            lines.pop(0)
            out += _entry(match, _take(lines, lambda line: line.startswith(" ")))
        else:
            paragraph = _inline([lines.pop(0), *_take(lines, _goes_on)])
            out += [HEADING.sub(r"**\1**", paragraph[0]), *paragraph[1:]]
        out.append("")
    return out


def _goes_on(line) -> bool:
    begins_another = line.startswith(("- ", "    ")) or HEADING.match(line) or PARAMETER.fullmatch(line)
    return bool(line.strip()) and not begins_another


def _take(lines, condition) -> list[str]:
    taken = []
    while lines and condition(lines[0]):
        taken.append(lines.pop(0))
    return taken


def _entry(match, rest) -> list[str]:
    names = ", ".join(f"``{name}``" for name in match[1].split(", "))
    text = _inline([match[2], *textwrap.dedent("\n".join(rest)).splitlines()])
    return [names, *(f"    {line}" for line in text)]


def _code(lines, kind="") -> list[str]:
    code = textwrap.dedent("\n".join(lines)).rstrip()
    code = code.replace("`", "") if kind else code
    language = "python" if not kind and _is_python(code) else "text"
    options = [f"   :class: {kind}"] if kind else []
    return [f".. code-block:: {language}", *options, "", *textwrap.indent(code, "   ").splitlines()]


def _is_python(code) -> bool:
    try:
        return any(isinstance(node, ast.Call | ast.Assign | ast.FunctionDef) for node in ast.walk(ast.parse(code)))
    except SyntaxError:
        return False


def _is_formula(paragraph) -> bool:
    return bool(re.match(r"(\(|->|[\w.]+ -> |[\w\[\], ^]+ = )", paragraph[0] if paragraph else ""))


def _inline(lines) -> list[str]:
    """Literals in double backticks; all else that reStructuredText would read as markup, escaped."""
    parts = re.split(r"`+([^`]+)`+", "\n".join(lines))
    parts[::2] = [re.sub(r"([*|_\\])", r"\\\1", part) for part in parts[::2]]
    parts[1::2] = [f"\\ ``{' '.join(part.split())}``\\ " for part in parts[1::2]]
    return "".join(parts).splitlines()


def fields(cls: type) -> list[str]:
    """The fields of a NamedTuple with the comments that stand beside them in the source."""
    comments = dict(re.findall(r"^    (\w+): [^#\n]*#\s*(.*)$", inspect.getsource(cls), re.MULTILINE))
    names = [name for name in getattr(cls, "_fields", ()) if name in comments]
    return [f"{name}: {comments[name]}" for name in names]


def _bare_signature(function) -> inspect.Signature:
    signature = inspect.signature(function)
    parameters = [parameter.replace(annotation=parameter.empty) for parameter in signature.parameters.values()]
    return inspect.Signature(parameters)


def _process(app, what, name, obj, options, lines):
    text = "\n".join(lines)
    if inspect.isclass(obj):
        text += "\n\n" + "\n".join(fields(obj))
    lines[:] = to_rst(text)


def setup(app):
    from docutils import nodes
    from docutils.statemachine import StringList
    from sphinx.util.docutils import SphinxDirective

    class Public(SphinxDirective):
        required_arguments = 1

        def run(self):
            module = self.arguments[0]
            lines = []
            family = families().get(module)
            if family is not None:
                lines += to_rst(family.__doc__ or "")
            names = public(module)
            if not names:
                raise self.error(f"nothing public is made in {module}")
            for name, value in names.items():
                if not (getattr(value, "__module__", None) or "").startswith("jnn"):
                    origin = f"{value.__module__.replace('_src.', '').replace('.functions', '')}.{name.rpartition('.')[2]}"
                    lines += [f".. py:function:: {name}{_bare_signature(value)}", "", f"   ``{origin}`` as it is.", ""]
                else:
                    lines += [f".. auto{'class' if inspect.isclass(value) else 'function'}:: {name}", ""]
            parent = nodes.container()
            self.state.nested_parse(StringList(lines, source=module), self.content_offset, parent)
            return parent.children

    app.add_directive("public", Public)
    app.connect("autodoc-process-docstring", _process)
    return {"parallel_read_safe": True}
