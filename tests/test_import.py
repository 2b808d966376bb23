import os
import subprocess
import sys


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
