"""The whole system as processes: gunicorn, worker, token, chain."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.stack import Stack, running_stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Return a running stack with four workers, which signs in a SoftHSM token."""
    home = tmp_path_factory.mktemp("stack") / "home"
    with running_stack(home, settings={"WEB_CONCURRENCY": "4"}) as running:
        yield running


@pytest.fixture(scope="session")
def home(stack: Stack) -> Path:
    """Return where the stack keeps its things."""
    return stack.home
