"""Loads ``.env`` from the working directory, for development."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import MutableMapping
from pathlib import Path

from dotenv import dotenv_values

from signer.errors import InvalidInputError


_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH

# It names code.  `hotwallet serve` would pass it on, and no other command sees it.
_OF_ENVIRONMENT_ONLY = "HOTWALLET_EXTRAS"


def load_env_file(environ: MutableMapping[str, str], path: Path) -> str | None:
    """
    Set the variables of the file at *path* in *environ*, unless they are set already.

    An empty variable counts as unset, as it does for ``Settings``.  The file is not
    loaded in production, which is also the default of ``APP_ENV``, nor if another user
    may have written it.  Return a line for the operator; None if there is no file, or
    no variable was set.
    """
    from signer.config.settings import Settings

    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_uid != os.geteuid() or status.st_mode & _WRITABLE_BY_OTHERS:
                return _not_loaded(path, "another user may write it: chmod 600 it")
            text = file.read().decode()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeError) as e:
        return _not_loaded(path, type(e).__name__)
    values = dotenv_values(stream=io.StringIO(text), interpolate=False)
    variables = {
        name: value
        for name, value in values.items()
        if value is not None and name != _OF_ENVIRONMENT_ONLY
    }
    app_env = environ.get("APP_ENV", "").strip() or variables.get("APP_ENV", "")
    if Settings.from_env({"APP_ENV": app_env}).is_production:
        return _not_loaded(path, "APP_ENV is production: set variables otherwise")
    missing = {name for name in variables if not environ.get(name, "").strip()}
    environ.update({name: variables[name] for name in missing})
    return f"loaded {path}" if missing else None


def read_env_file(path: Path) -> dict[str, str]:
    """
    Return the variables of the file at *path*, as systemd and Docker Compose read it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as e:
        raise InvalidInputError(
            f"{path.name} cannot be read ({type(e).__name__})"
        ) from None
    values = dotenv_values(stream=io.StringIO(text), interpolate=False)
    return {name: value for name, value in values.items() if value is not None}


def _not_loaded(path: Path, reason: str) -> str:
    return f"warning: {path} is not loaded: {reason}"
