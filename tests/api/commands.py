"""``hotwallet`` run in the test's own process, and what it said."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from api.cli.__main__ import main


@dataclass(frozen=True)
class Told:
    """What a command said, and its exit status."""

    status: object
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The JSON document on standard output, which holds nothing else."""
        return json.loads(self.out)


Run = Callable[..., Told]


def started(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return who runs ``hotwallet`` in this process, in its environment."""

    monkeypatch.setenv("HOTWALLET_NO_ENV_FILE", "1")

    def hotwallet(*arguments: str) -> Told:
        monkeypatch.setattr(sys, "argv", ["hotwallet", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        return Told(left.value.code, *capsys.readouterr())

    return hotwallet
