"""The agents that come with the package: bundles of V, M and C, each with its model card beside it.

`wm_jax.load("swing_up")`, the commands and `initial` know them by name.
"""

from pathlib import Path

FOLDER = Path(__file__).parent


def bundles() -> dict[str, Path]:
    """The agents' bundles by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.safetensors"))}


def located(path: str | Path, folder: Path = Path()) -> Path:
    """`path` as seen from `folder`. If nothing is there and it is the bare name of an agent here: that agent's bundle."""
    there = folder / path
    return there if there.exists() else bundles().get(str(path), there)
