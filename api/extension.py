"""
What an extra can add to the core, and where extras are found.

The core is what pays refunds.  An extra is a feature that a service can run without: a
folder of ``api/extras`` or another package, which declares an ``Extra``.  The core
imports no extra; it asks this module for what they add.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules


GROUP = "hotwallet.extras"
"""The entry points of extras in other packages; ``HOTWALLET_EXTRAS`` names them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extra:
    """
    What one extra adds.

    Each value is ``module:attribute``, which is imported when it is used.  So the list
    of commands imports no library.
    """

    name: str
    commands: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """
    click commands with their line in the help.

    The key is ``NAME``, or ``GROUP NAME`` for a ``LazyGroup`` of the core.
    """


def find_commands(group: str = "") -> dict[str, tuple[str, str]]:
    """Return what the extras add to *group*, by the last word of its name."""
    return {
        words[-1]: command
        for extra in find_extras()
        for path, command in extra.commands.items()
        if (words := path.split())[:-1] == group.split()
    }


@cache
def find_extras() -> tuple[Extra, ...]:
    """
    Return the extras of this installation, by name.

    They are all in ``api/extras``, and those of other packages that the variable
    ``HOTWALLET_EXTRAS`` names: a package does not become a part of the signer by being
    installed.

    Raises:
        ConfigurationError: ``backend-misconfigured``: a named extra cannot be loaded.
    """
    folder = Path(__file__).with_name("extras")
    found = [
        import_module(f"api.extras.{module.name}").EXTRA
        for module in iter_modules([str(folder)])
    ]
    named = os.environ.get("HOTWALLET_EXTRAS", "").split()
    if named:
        from api.plugins import load_extra  # noqa: PLC0415  It is slow.

        found += [load_extra(GROUP, name, Extra) for name in named]
    return tuple(sorted(found, key=lambda extra: extra.name))
