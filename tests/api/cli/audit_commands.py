"""Runs ``hotwallet audit`` in tests."""

from click.testing import CliRunner, Result

from api.cli.audit import audit
from tests.support.audit import chain


MORE = chain(5)
LINKS = MORE[:4]
"""The records of the export: all but the last one."""


def run(*arguments: str) -> Result:
    return CliRunner().invoke(audit, arguments)


def verified(*arguments: str) -> Result:
    return run("verify", "export", "--public-key", "key.pub.pem", *arguments)
