"""Parts by name. A part is one file, in its package or your own, that registers what it adds."""

import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any, ClassVar, Generic, TypeVar

from wm_jax.data.files import real, sha256
from wm_jax.errors import UserError, require_choice, unreadable

Thing = TypeVar("Thing", bound=Callable[..., Any])
Registered = TypeVar("Registered", bound=Callable[..., Any])

PART = re.compile(rb"^@\w+\.register", re.MULTILINE)
"""Matches the modules of a package that register a part, and not their helpers."""
PREFIX = "wm_jax_parts_"
"""Prefix of the names of modules loaded from users' own files; the start of the file's SHA-256 follows."""


class Registry(Generic[Thing]):
    """The parts of one kind: settings classes, or functions.

    A built-in part is the module of that name in `package`. It is imported when it is first requested.
    """

    def __init__(self, what: str, package: str | None = None):
        """`what`: the setting that names a part, as users write it."""
        self.what, self.package = what, package
        self._found: dict[str, Thing] = {}
        self._digests: dict[str, str] = {}

    def register(self, thing: Registered) -> Registered:
        """Decorator: add a part under its `kind`, or a function under its name. Raises `UserError` if another file has
        already registered this name."""
        name: str = getattr(thing, "kind", thing.__name__)
        before = self._found.get(name)
        if before is not None and _file(before) != _file(thing):
            raise UserError(
                f"{self.what} {name!r} of {_file(thing)} is already registered by {_file(before)}; rename one, or load "
                "the runs that need them in separate commands or processes"
            )
        self._found[name] = thing  # type: ignore[assignment]
        source = self.source(name)
        if source is not None and source.is_file():
            # Now: the file may be edited while this process uses what it has read.
            self._digests[name] = sha256(source)
        return thing

    def names(self) -> list[str]:
        """All available parts, sorted."""
        folder = Path(import_module(self.package).__file__ or "").parent if self.package else None
        return sorted({*self._found, *(_parts(folder) if folder else ())})

    def __getitem__(self, name: str) -> Thing:
        """The part of that name. Raises `UserError` if there is none."""
        if name not in self._found:
            require_choice(self.what, name, self.names())
            import_module(f"{self.package}.{name}")
        return self._found[name]

    def source(self, name: str) -> Path | None:
        """The user's file that defines a part; None for the package's own parts."""
        file = _file(self[name])
        return None if Path(__file__).parent in file.parents else file

    def digest(self, name: str) -> str | None:
        """SHA-256 of the user's file that defines a part; None for the package's own parts, or if there is no file."""
        return self._digests.get(name)


@dataclass(frozen=True)
class PartConfig:
    """Base class of a part's settings. `kind` names the part that they belong to."""

    registry: ClassVar[Registry[Any]]
    """The registry of this kind of parts."""

    kind: str


@cache
def _parts(folder: Path) -> tuple[str, ...]:
    """Modules and packages in a package's folder that register a part."""
    found = []
    for module in iter_modules([str(folder)]):
        files = (folder / module.name).glob("*.py") if module.ispkg else [folder / f"{module.name}.py"]
        if any(PART.search(file.read_bytes()) for file in files):
            found.append(module.name)
    return tuple(found)


def load_parts(name: str | Path) -> ModuleType:
    """Import a Python file, or an installed module, that registers parts. The same contents are imported once.

    Raises `UserError` if the file does not exist or has a syntax error, or if the module cannot be imported;
    `ForeignError` if its code fails.
    """
    if not str(name).endswith(".py"):
        try:
            return import_module(str(name))
        except (ImportError, TypeError, ValueError) as error:
            raise UserError(f"parts names {name}, which cannot be imported ({error}); give a Python file or an installed "
                            "module") from error  # fmt: skip
        except UserError:
            raise
        except Exception as error:
            raise unreadable(f"parts module {name}", error) from error
    path = real(name)
    if not path.is_file():
        raise UserError(f"parts file {name} does not exist; give the path of a Python file that registers parts")
    module_name = PREFIX + sha256(path)[:16]
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[module_name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module_name]
        if isinstance(error, UserError):
            raise
        raise unreadable(f"parts file {path}", error) from error
    return module


def require_named(parts: Sequence[str], setting: str, name: str, source: Path | None) -> None:
    """Raise `UserError` unless `source`, the file of the part that `setting` names, belongs to the package or is among
    `parts`. Other commands would not find it otherwise."""
    files = [Path(part) if part.endswith(".py") else Path(load_parts(part).__file__ or "") for part in parts]
    named = {real(file) for file in files} | {real(file).parent for file in files if file.name == "__init__.py"}
    if source is not None and not named & {real(source), *real(source).parents}:
        raise UserError(f"{setting} is {name!r}, registered in {source}, but parts does not name that file, so other "
                        "commands would not find it; put it in a Python file of its own, named in parts")  # fmt: skip


def _file(thing: Callable[..., Any]) -> Path:
    try:
        return Path(inspect.getfile(inspect.unwrap(thing)))
    except TypeError:
        return Path("the file run as a script")
