"""The agents that come with the package: bundles of V, M and C, each with its model card beside it.

`wm_jax.load("swing_up")` and the commands know them by name.
"""

from pathlib import Path

FOLDER = Path(__file__).parent


def bundles() -> dict[str, Path]:
    """The agents' bundles by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.safetensors"))}


def located(path: Path) -> Path:
    """The bundle with the name `path`, if it is the bare name of an agent here and no file or folder of that name exists;
    otherwise `path`."""
    return path if path != Path(path.name) or path.exists() else bundles().get(path.name, path)
