import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.whole


def test_a_population_laid_over_eight_devices_scores_as_on_one(environment):
    script = Path(__file__).parent / "eight_devices.py"
    # More devices than threads would wait for each other forever.
    flags = {"XLA_FLAGS": f"{environment['XLA_FLAGS']} --xla_force_host_platform_device_count=8", "NPROC": "16"}
    done = subprocess.run([sys.executable, str(script)], env={**environment, **flags}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
