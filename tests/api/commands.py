"""The result of ``hotwallet`` run in the test's process; the fixture runs it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Finished:
    """The output of a command, and its exit status."""

    status: object
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The JSON document that is all of standard output."""
        return json.loads(self.out)


Run = Callable[..., Finished]

AsAdministrator = Callable[..., Finished]
"""Runs ``hotwallet`` with a new token: its subject, its scope, and the command."""
