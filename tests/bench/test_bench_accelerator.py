"""benchmarks/accelerator.py, on this processor with tiny sizes."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from wm_jax.bench.config import BenchConfig
from wm_jax.bench.table import Result, Row
from wm_jax.errors import UserError
from wm_jax.pipeline.progress import Screen

pytestmark = [pytest.mark.whole, pytest.mark.usefixtures("quick_compilation")]

TINY = BenchConfig(population=4, rollouts=2, hidden_size=8, latent_size=4, horizon=32, seconds=0)


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "accelerator.py"))


def test_a_device_agrees_with_itself(script: dict[str, Any]) -> None:
    rows = script["check"](TINY).rows
    assert len(rows) == 5 and all(row.value <= 1e-6 for row in rows)


def test_dreams_are_measured_beside_products_and_what_was_compiled(script: dict[str, Any]) -> None:
    rows = {row.name: row for row in script["dreams"](TINY, 16, Screen()).rows}
    assert rows["dream, 16 lanes"].value > 0 and (rows["dream, 16 lanes"].limit or 0) > 0
    assert rows["memory, compiled"].value > 0 and rows["kernels of a step, compiled"].value > 2


def test_it_goes_on_where_the_minutes_were_over(script: dict[str, Any], tmp_path: Path) -> None:
    run, called = script["run"], []

    def rows(*_: object) -> dict[str, Any]:
        def measured(name: str) -> Result:
            called.append(name)
            return Result("tiny", (Row(name, 1.0, "s"),))

        return {name: lambda name=name: measured(name) for name in ("first", "second", "third")}

    run.__globals__["_rows"] = rows
    run(tmp_path, minutes=0, config=TINY)
    assert called == [] and not (tmp_path / "rows.json").exists()
    run(tmp_path, minutes=5, config=TINY)
    run(tmp_path, minutes=5, config=TINY)
    assert called == ["first", "second", "third"]
    assert [row["name"] for row in json.loads((tmp_path / "rows.json").read_text())["rows"]] == called
    assert "| third | 1 s |" in (tmp_path / "README.md").read_text()
    with pytest.raises(UserError, match="measured with precision tensorfloat32, now it is float32; give another --out"):
        run(tmp_path, minutes=5, config=BenchConfig(precision="float32"))
