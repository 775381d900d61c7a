"""The example's own tests: the contract, inherited from hotwallet."""

import pytest

from hotwallet import Device, KeyBackendContract, KeyId
from tests.plugins.example_backend.example_backend import FileBackend


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Device:
    """The backend with a key."""
    backend = FileBackend(tmp_path_factory.mktemp("keys"))
    key = backend.generate("the contract's key")
    return Device("example", backend, backend, key, KeyId("absent"))


class TestFileBackend(KeyBackendContract):
    """The contract of every key backend."""
