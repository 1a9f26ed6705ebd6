"""Optional packages, installed as extras of wm-jax."""

from importlib import import_module
from typing import Any

from wm_jax.errors import UserError


def need(module: str, extra: str) -> Any:
    """Import the module of that name. Raises `UserError`, which names the `extra` to install, if the import fails."""
    try:
        return import_module(module)
    except ImportError as error:
        raise UserError(
            f'{module} is needed here but cannot be imported ({error}): pip install "wm-jax[{extra}]"'
        ) from error


def installed(module: str) -> bool:
    """Whether the module of that name can be imported."""
    try:
        import_module(module)
    except ImportError:
        return False
    return True
