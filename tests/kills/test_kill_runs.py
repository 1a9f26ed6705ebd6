"""The script that kills runs works; 100 kills are for by hand."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "kill_runs.py"


@pytest.mark.slow
def test_a_few_kills(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), str(tmp_path), "--kills=3"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "then the same bits" in done.stdout and "0 faults" in done.stdout
