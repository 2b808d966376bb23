import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("marked", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_eight_simulated_devices_compute_what_one_computes(marked):
    flags = "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count=8"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    options = ["-q", "-p", "no:cacheprovider", "-n", "0", "-m", marked, str(Path(__file__).with_name("eight_devices.py"))]
    command = [sys.executable, "-m", "pytest", *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
