"""A running service applies changed rules, once a second person has approved them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dev.stack import request
from tests.e2e import test_raised_limits
from tests.e2e.gateway import RECIPIENT
from tests.e2e.running_service import RunningService
from tests.e2e.test_raised_limits import Host
from tests.support.waiting import eventually


host = test_raised_limits.host

_PATIENCE = 60.0

_PROCESSES = 3  # Two of gunicorn, and a worker.

OLD = '@id("old") forbid (principal, action, resource) when { context.path == "x" };'
NEW = f"""
@id("stolen") @message("reported as stolen")
forbid (principal, action == Action::"sign-transaction", resource)
when {{ context has recipient && context.recipient == "{RECIPIENT}" }};
"""


@pytest.fixture
def deployed(host: Host, tmp_path: Path) -> Host:
    """A host with a folder of rules, which two people have approved."""
    folder = tmp_path / "policy"
    folder.mkdir()
    (folder / "own.cedar").write_text(OLD, encoding="utf-8")
    settings = {"POLICY_DIR": str(folder), "WEB_CONCURRENCY": "2"}
    deployed = replace(host, environ={**host.environ, **settings})
    approve(deployed)
    return deployed


@pytest.fixture
def service(deployed: Host) -> Iterator[RunningService]:
    with RunningService(deployed.environ) as service:
        yield service


def approve(host: Host, **settings: str) -> None:
    """Let alice ask for the rules of *host*, and bob approve them, as commands."""
    asking = replace(host, environ={**host.environ, **settings})
    asked = asking.run_as("alice", "limits:raise", "limits", "raise", "--reason", "why")
    digest = asked.stderr.partition("approvals approve ")[2][:16]
    decide = ("approvals", "approve", digest, "--reason", "why", "--yes")
    decided = asking.run_as("bob", "approvals:decide", *decide)
    assert decided.returncode == 0, asked.stderr + decided.stderr


def _preview(service: RunningService, token: str) -> Any:
    return request(
        "POST",
        f"http://127.0.0.1:{service.port}/v1/refunds/preview",
        headers={"Authorization": f"Bearer {token}"},
        body={
            "payment_session_id": "ps_1",
            "network": "local",
            "token": "TUSD",
            "recipient": RECIPIENT,
            "amount": "1.25",
        },
    )[2]["policy"]


def test_two_people_change_the_rules_of_a_running_service(
    deployed: Host, service: RunningService
) -> None:
    """Without the second one, alert and ``/readyz`` show it; nothing restarts."""
    token = deployed.run("token").stdout.strip()
    members = {*service.members()}
    before = _preview(service, token)
    file = Path(deployed.environ["POLICY_DIR"]) / "own.cedar"
    file.write_text(NEW, encoding="utf-8")

    def count(event: str) -> int:
        found = (e for e in service.events({}) if event in (e["event"], e.get("alert")))
        return sum(1 for _ in found)

    assert eventually(
        lambda: count("policy-not-reloaded") >= _PROCESSES, _PATIENCE, pause=0.2
    )
    url = f"http://127.0.0.1:{service.port}/readyz"
    assert eventually(
        lambda: request("GET", url)[2]["checks"]["policy"] == "policy-not-reloaded",
        _PATIENCE,
        pause=0.2,
    )
    status, _, ready = request("GET", url)
    assert (status, ready["status"]) == (200, "degraded")
    waiting = _preview(service, token)
    approve(deployed)
    assert eventually(
        lambda: count("policy-reloaded") == _PROCESSES, _PATIENCE, pause=0.2
    )

    after = [_preview(service, token) for _ in range(8)]
    assert (before["verdict"], waiting["verdict"]) == ("allow", "allow")
    assert {(each["verdict"], *each["rules"]) for each in after} == {
        ("refuse", "stolen")
    }
    assert {*service.members()} == members
    assert eventually(
        lambda: request("GET", url)[2]["checks"]["policy"] == "ok",
        _PATIENCE,
        pause=0.2,
    )
