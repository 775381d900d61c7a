"""Real processes apply a raised limit only after another person approved it."""

import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.e2e.dependencies import kms_service
from tests.fixtures.chain import DevChain
from tests.support.forked_processes import run_command


KEPT = (
    "the limits accepted before stay in force: more is allowed than the last worker"
    " started with:"
    " networks.local.tokens.TUSD.max_amount: 10000000 -> 90000000; another"
    " administrator must approve it: `hotwallet limits raise`"
)


@dataclass(frozen=True)
class Host:
    """A host with a networks file, on which commands run as processes."""

    folder: Path
    environ: Mapping[str, str]

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run ``hotwallet``, and return its output."""
        return run_command(command, {**self.environ, **variables})

    def run_as(
        self, subject: str, scope: str, *command: str
    ) -> subprocess.CompletedProcess[str]:
        """Run ``hotwallet`` with a new token of an administrator."""
        token = self.folder / "token"
        options = ("--role", "admin", "--subject", subject, "--scope", scope)
        token.write_text(self.run("token", *options).stdout, encoding="ascii")
        token.chmod(0o600)
        return self.run(*command, OPERATOR_TOKEN_FILE=str(token))

    def raised(self) -> "Host":
        """Return the host with a file that allows more."""
        old = Path(self.environ["NETWORKS_FILE"]).read_text(encoding="utf-8")
        path = self.folder / "raised.toml"
        path.write_text(old.replace('"10000000"', '"90000000"'), encoding="utf-8")
        return replace(self, environ={**self.environ, "NETWORKS_FILE": str(path)})


@pytest.fixture
def host(
    tmp_path: Path, local_chain: DevChain, postgresql_url: str, aws_environment: None
) -> Iterator[Host]:
    """A host on which a worker has run, where two people must agree."""
    settings = {"DATABASE_URL": postgresql_url, "REQUIRE_APPROVALS": "true"}
    with kms_service(tmp_path, local_chain, **settings, BIND="127.0.0.1:0") as (
        _,
        environ,
    ):
        host = Host(tmp_path, environ)
        assert host.run("worker", "--once").returncode == 0
        yield host


def test_two_people_raise_a_limit(host: Host) -> None:
    """Worker and guard keep the accepted limits until the others are approved."""
    raised = host.raised()
    kept = [raised.run("worker", "--once"), raised.run("guard")]
    shown = raised.run("limits", "show")
    asked = raised.run_as("alice", "limits:raise", "limits", "raise", "--reason", "why")
    waiting = raised.run("worker", "--once")
    digest = asked.stderr.partition("approvals approve ")[2][:16]
    decide = ("approvals", "approve", digest, "--reason", "why", "--yes")
    approved = raised.run_as("bob", "approvals:decide", *decide)
    started = [raised.run("guard"), raised.run("worker", "--once"), raised.run("guard")]

    assert [each.returncode for each in (*kept, waiting)] == [0] * 3, kept
    assert all(KEPT in each.stdout + each.stderr for each in (*kept, waiting)), kept
    assert (shown.returncode, "10000000 -> 90000000" in shown.stdout) == (1, True)
    assert "approval-required" in asked.stderr
    assert approved.returncode == 0, approved.stderr
    assert [each.returncode for each in started] == [0, 0, 0]
    assert not any(KEPT in each.stdout + each.stderr for each in started)

    lowered = host.run("worker", "--once")
    again = raised.run("worker", "--once")
    assert (lowered.returncode, again.returncode) == (0, 0)
    assert KEPT in again.stdout + again.stderr
