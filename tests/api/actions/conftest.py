"""A service, and the ways to change it."""

from pathlib import Path

import pytest

from backends.sql import SQLStore
from tests.api.actions.surfaces import Surfaces
from tests.api.commands import Run
from tests.extras.console.worlds import World


@pytest.fixture
def world(sqlite_store: SQLStore) -> World:
    """A service, and the browser of an administrator."""
    return World(sqlite_store)


@pytest.fixture
def surfaces(
    hotwallet: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Surfaces:
    monkeypatch.setenv("APP_ENV", "test")
    return Surfaces(hotwallet, tmp_path, monkeypatch)
