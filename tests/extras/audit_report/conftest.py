"""A folder with an export, a ledger, and the keys."""

from tests.api.cli.conftest import files, journal


__all__ = ["files", "journal"]
