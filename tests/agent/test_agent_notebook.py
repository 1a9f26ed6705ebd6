"""docs/dream.ipynb, from its first cell to its last."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.whole

ROOT = Path(__file__).parents[2]
AFTER = """
assert drawn.shape == (40, 64, 64, 3) and abs(np.asarray(drawn) - np.stack(frames) / 255).mean() < 0.05
assert pictures.shape == (150, 64, 64, 3)
assert actual["mean"] > 800, actual
"""


def test_the_notebook_runs() -> None:
    cells = json.loads((ROOT / "docs" / "dream.ipynb").read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    plotted = f"import matplotlib\nmatplotlib.use('agg')\n{code}\n{AFTER}"
    done = subprocess.run([sys.executable, "-c", plotted], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "of 1000 in the dream" in done.stdout
