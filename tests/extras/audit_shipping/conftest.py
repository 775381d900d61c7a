"""Places in a bucket of an emulator, and in a folder."""

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from api.extras.audit_shipping.places import Place, open_place
from backends.sql import SQLStore
from tests.api.support import SettableClock
from tests.extras.audit_shipping.shipping import Shipping, create_bucket
from tests.support.audit import START


_NUMBERS = count()


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The URL of moto's object store."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty bucket with versions and object lock."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    name = f"shipped-{next(_NUMBERS)}"
    create_bucket(s3, name)
    return name


@pytest.fixture(params=["s3", "folder"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty place of each kind."""
    if request.param == "s3":
        return f"s3://{request.getfixturevalue('bucket')}/log"
    (tmp_path / "place").mkdir()
    return (tmp_path / "place").as_uri()


@pytest.fixture
def opened_place(s3: str) -> Callable[[str], Place]:
    """Return a function that opens a place by its URL, as each process does."""
    return lambda url: open_place(url, s3, "us-east-1")


@pytest.fixture
def place(url: str, opened_place: Callable[[str], Place]) -> Place:
    return opened_place(url)


@pytest.fixture
def shipping(sqlite_store: SQLStore, place: Place) -> Shipping:
    return Shipping(sqlite_store, place, SettableClock(START))
