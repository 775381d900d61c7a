"""The stack of real processes: gunicorn, worker, token and chain."""

from collections.abc import Iterator

import pytest

from dev.stack import Stack, running_stack


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A running stack with four gunicorn workers and a SoftHSM token."""
    home = tmp_path_factory.mktemp("stack") / "home"
    with running_stack(home, settings={"WEB_CONCURRENCY": "4"}) as running:
        yield running
