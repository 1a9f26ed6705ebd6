"""The agents that come with the package: bundles of V, M and C, each with its model card beside it.

`wm_jax.load("swing_up")` and the commands know them by name.
"""

from pathlib import Path

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The names of the agents."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def located(path: Path) -> Path:
    """The bundle with the name `path`, if it is the bare name of an agent here and no file or folder of that name exists;
    otherwise `path`."""
    if path == Path(path.name) and path.name in names() and not path.exists():
        return FOLDER / f"{path.name}.safetensors"
    return path
