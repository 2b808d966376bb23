"""How much of the device a comparison may take."""

import os
from pathlib import Path

import jax

from jnn.populations import workers

SHARE = 0.5  # of the memory, as the user's machine does other things too, and XLA's account leaves out its own buffers


def memory_per_program() -> int:
    """Bytes. What the device has, not what is free: results must not depend on what else runs."""
    stats = jax.devices()[0].memory_stats()
    total = stats["bytes_limit"] if stats and "bytes_limit" in stats else _machine_memory()
    return int(SHARE * total / workers())


def _machine_memory() -> int:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**33
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):  # of a container
        try:
            total = min(total, int(Path(file).read_text()))
        except (OSError, ValueError):  # none, or "max"
            continue
    return total
