"""The result of ``hotwallet`` run in the test's process; the fixture runs it."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Finished:
    status: object
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Terminal(io.StringIO):
    """Standard input at which a person types."""

    def isatty(self) -> bool:
        return True


Run = Callable[..., Finished]

AsAdministrator = Callable[..., Finished]
"""Runs ``hotwallet`` with a new token: its subject, its scope, and the command."""
