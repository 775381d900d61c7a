"""The journal that commands open."""

from tests.api.cli.conftest import journal


__all__ = ["journal"]
