import contextlib
import os
from pathlib import Path

import hypothesis
import jax
import pytest

from jnn import plots

import layer_properties

# Most of the time of the suite goes into compiling, and programs as small as these gain nothing from LLVM's passes or from
# XLA's newer emitters of fusions, which take twice as long to compile. XLA stops at a flag that it does not know.
# Read when the first program is compiled; `XLA_FLAGS= pytest` runs the suite as users run their programs.
QUICK = "--xla_backend_optimization_level=0"
if jax.__version_info__ < (0, 11):
    QUICK += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", QUICK)
jax.config.update("jax_numpy_dtype_promotion", "strict")
plots.STYLE["pdf.fonttype"] = 3  # outlines as they are: to cut them to size for type 42 is half of what a report takes
if "JAX_PLATFORMS" not in os.environ:
    # several test processes would fight over the memory of one accelerator
    jax.config.update("jax_platforms", "cpu")

# the same cases in every run; more of them, and with them others, where the variable says so
hypothesis.settings.register_profile(
    "jnn",
    max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "100")),
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
hypothesis.settings.load_profile("jnn")


@pytest.fixture(scope="module", autouse=True)
def few_maps():
    """Each compiled program takes some maps of memory, of which Linux gives a process 65,530; XLA crashes without them."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 30_000:
        jax.clear_caches()


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture
def x64():
    """Double precision, for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def raises():
    """Like pytest.raises, but with the whole message: `match` looks at the notes as well."""

    @contextlib.contextmanager
    def expect(error_class, message):
        with pytest.raises(error_class) as error:
            yield error
        assert str(error.value) == message

    return expect


def pytest_generate_tests(metafunc):
    """A class that inherits the properties of a family runs them for each row of its table."""
    layer_properties.pytest_cases(metafunc)
