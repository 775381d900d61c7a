"""The audit events of an account that a program opened as a library."""

import json
import logging
from collections.abc import Iterator

import pytest
import structlog
from structlog.testing import capture_logs

from signer.account import AccountEvents


@pytest.fixture
def no_structlog() -> Iterator[None]:
    """As in a program that does not configure structlog."""
    before, was = structlog.get_config(), structlog.is_configured()
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()
    if was:
        structlog.configure(**before)


@pytest.mark.usefixtures("no_structlog")
def test_an_event_is_a_line_of_the_standard_library(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is printed, and a percent sign in a value is no format."""
    with caplog.at_level(logging.INFO, logger="hotwallet.audit"):
        AccountEvents().info("digest-sign-requested", reason="100 %s", attempts=1)

    (line,) = caplog.records
    assert (line.name, line.levelname) == ("hotwallet.audit", "INFO")
    assert json.loads(line.getMessage()) == {
        "attempts": 1,
        "event": "digest-sign-requested",
        "reason": "100 %s",
    }
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("no_structlog")
def test_a_program_that_configures_structlog_gets_events() -> None:
    with capture_logs() as events:
        AccountEvents().info("digest-sign-requested", attempts=1)

    assert events == [
        {"attempts": 1, "event": "digest-sign-requested", "log_level": "info"}
    ]
