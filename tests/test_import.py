import ast
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run(code, **environment):
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)


def loaded_by(code):
    done = run(f"{code}\nimport sys; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))")
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split()) - sys.stdlib_module_names


def test_import_loads_no_package_beyond_those_of_jax_and_numpy():
    assert loaded_by("import jnn") - loaded_by("import jax, numpy") == {"jnn"}


def test_import_starts_no_backend():
    # with a platform that does not exist, whatever starts a backend fails
    assert run("import jnn", JAX_PLATFORMS="nonexistent").returncode == 0
    control = run("import jax; jax.numpy.zeros(1)", JAX_PLATFORMS="nonexistent")
    assert control.returncode != 0
    assert "nonexistent" in control.stderr


def imported_by(module):
    """The modules of jnn that a module, or the modules of a package, import."""
    folder = ROOT / "jnn" / module
    for path in folder.rglob("*.py") if folder.is_dir() else [folder.with_suffix(".py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "jnn":
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jnn."):
                yield node.module.split(".")[1]


def test_modules_import_from_floors_below_or_from_what_stands_earlier_in_their_row():
    rows = re.findall(r"^ *\| \d[^|]*\| (.*?) \|$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    order = [module for row in rows for module in row.split(", ")]
    assert set(order) | {"__init__"} == {
        path.stem for path in (ROOT / "jnn").iterdir() if not path.name.startswith(("py.", "__p"))
    }
    for i, module in enumerate(order):
        assert set(imported_by(module)) <= {*order[: i + 1]}, module
