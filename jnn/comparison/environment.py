"""Where a result was found: versions, device, machine."""

import hashlib
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from jnn.populations import cores

PACKAGES = ("jax", "jaxlib", "numpy", "optax", "scipy", "scikit-learn")


def describe() -> dict[str, Any]:
    """Versions, a hash of jnn's source, the device and the machine; nothing that names a person or a host."""
    import jnn

    device = jax.devices()[0]
    digest = hashlib.sha256()
    root = Path(jnn.__file__).parent
    for file in sorted(root.rglob("*.py")):
        digest.update(file.relative_to(root).as_posix().encode() + file.read_bytes())
    return {
        "versions": {"python": platform.python_version(), "jnn": jnn.__version__} | {p: metadata.version(p) for p in PACKAGES},
        "jnn_source_sha256": digest.hexdigest(),
        "device": {"platform": device.platform, "kind": device.device_kind, "count": jax.device_count()},
        "machine": {"system": platform.system(), "processor": _processor(), "cores": cores()},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
