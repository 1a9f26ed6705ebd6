import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.whole


def test_V_and_M_train_on_eight_devices_as_on_one(environment: dict[str, str], tmp_path: Path) -> None:
    script = Path(__file__).parent / "eight_devices.py"
    # More devices than threads would wait for each other forever.
    flags = {"XLA_FLAGS": f"{environment['XLA_FLAGS']} --xla_force_host_platform_device_count=8", "NPROC": "16"}
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], env={**environment, **flags}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
