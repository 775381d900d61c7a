"""The fixtures of a service in one process."""

from tests.unit.signer.conftest import clock, empty, opened, world


__all__ = ["clock", "empty", "opened", "world"]
