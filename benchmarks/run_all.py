"""Make all tables and the figure of README.md on whatever device this is, within about 10 minutes.

    python benchmarks/run_all.py                 all of them
    python benchmarks/run_all.py dream vision    only these, again
    python benchmarks/run_all.py --missing       only those without a result yet

Each benchmark is written as soon as it is finished: to results/DEVICE.json, the figure to results/DEVICE.png, and the
tables of all devices in results/ to README.md.
"""

import re
import sys
import time
from pathlib import Path
from typing import Any

import tyro
from tyro.conf import Positional

from wm_jax.bench import BENCHMARKS, scaling, suite, table
from wm_jax.bench.config import BenchConfig
from wm_jax.data.files import read_json, write_json
from wm_jax.errors import UserError
from wm_jax.pipeline.progress import Screen

HERE = Path(__file__).parent
BEGIN, END = "<!-- results: written by run_all.py -->\n", "<!-- end of results -->"
LATEST = 0.7
"""Share of the minutes after which no further benchmark is begun."""


def run_all(names: Positional[tuple[str, ...]] = (), /, missing: bool = False, minutes: float = 10.0) -> None:
    """Measure the benchmarks `names`, all unless given; with `missing` only those that have no results yet."""
    screen, config, begin = Screen(), BenchConfig(), time.monotonic()
    suite.check(names, config)
    about = suite.about(config)
    path = HERE / "results" / f"{re.sub('[^a-z0-9]+', '-', about['device'].lower()).strip('-')}.json"
    results = _earlier(path, about, screen)
    wanted = [name for name in names or BENCHMARKS if not (missing and name in results)]
    suite.warn_if_busy(screen)
    for name in wanted:
        if time.monotonic() - begin > LATEST * minutes * 60:
            left = wanted[wanted.index(name) :]
            screen.warn(f"{minutes:g} minutes are nearly over; left: {', '.join(left)}; run again with --missing")
            break
        results[name] = suite.measure(name, config, screen)
        table.show(screen.console, name, results[name])
        in_order = {known: results[known] for known in BENCHMARKS if known in results}
        write_json(path, table.as_json(in_order, about))
        if name == "scaling":
            scaling.figure(path.with_suffix(".png"), results[name].rows, f"{about['device']}, {about['precision']}")
        write_readme(HERE)
    screen.say(f"{path} and {HERE / 'README.md'} are written")


def _earlier(path: Path, about: dict[str, Any], screen: Screen) -> dict[str, table.Result]:
    """Earlier results on this device with these versions; empty if there are none."""
    if not path.is_file():
        return {}
    report = read_json(path)
    if any(report.get(name) != value for name, value in about.items()):
        screen.warn(f"{path.name} was measured with other versions or settings; the new results replace it")
        return {}
    return table.from_json(report)


def write_readme(folder: Path) -> None:
    """Write the tables of all results/*.json between the two markers in README.md."""
    readme = folder / "README.md"
    text = readme.read_text()
    if BEGIN not in text or END not in text:
        raise UserError(
            f"{readme} must contain the lines {BEGIN.strip()!r} and {END!r}, between which tables are written"
        )
    sections = [section(path) for path in sorted((folder / "results").glob("*.json"))]
    before, after = text[: text.index(BEGIN)], text[text.index(END) :]
    readme.write_text(f"{before}{BEGIN}\n{''.join(sections)}{after}")


def section(path: Path) -> str:
    """One device's results as Markdown."""
    report = read_json(path)
    text = table.markdown(table.from_json(report), report)
    picture = path.with_suffix(".png")
    return text + (f"![how the dream's cost grows](results/{picture.name})\n\n" if picture.is_file() else "")


if __name__ == "__main__":
    try:
        tyro.cli(run_all)
    except UserError as error:
        sys.exit(f"run_all: {error}")
    except KeyboardInterrupt:
        sys.exit("run_all: stopped; finished results are in results/; run again with --missing for the others")
