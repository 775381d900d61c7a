"""The files and the journal that commands open."""

from tests.api.cli.conftest import files, journal


__all__ = ["files", "journal"]
