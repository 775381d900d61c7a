"""``hotwallet drill compromise`` on a stack whose keys are in an emulator of KMS."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from api.auth.dev_tokens import mint
from dev import stablecoin
from dev.kms_emulator import KMSEmulator
from dev.stack import Stack, running_stack
from signer.config.settings import Settings
from tests.extras.drills.people import Act
from tests.extras.drills.playing import Staging
from tests.support.forked_processes import ForkedHotWallet


@pytest.fixture
def stack(tmp_path: Path, kms_emulator: KMSEmulator) -> Iterator[Stack]:
    with running_stack(
        tmp_path / "home",
        kms=kms_emulator,
        settings={
            "WEB_CONCURRENCY": "1",
            "KMS_TIMEOUT_MS": "8000",
            "REQUIRE_APPROVALS": "true",
            "OPERATOR_TOKEN_FILE": str(tmp_path / "operator.token"),
        },
        program=ForkedHotWallet(),
    ) as running:
        yield running


def _hold_token(stack: Stack, name: str, scope: str) -> None:
    """Let the operator be *name*; a token is used once."""
    path = Path(stack.environ["OPERATOR_TOKEN_FILE"])
    settings = Settings.from_env(stack.environ)
    token = mint(settings, subject=name, roles=["admin"], scopes=[scope])
    path.write_text(token, encoding="ascii")
    path.chmod(0o600)


def _play_by_two(drill: Staging) -> CompletedProcess[str]:
    """Let alice play, and bob approve each step that needs it."""
    stack = drill.stack
    for step, scope in (("rotate", "keys:rotate"), ("resume", "signing:stop")):
        _hold_token(stack, "alice", scope)
        ran = drill.play()
        drill.require_failed(ran, step)
        assert "error: approval-required: " in ran.stderr
        listed = stack.program.run(("approvals", "list", "--json"), stack.environ)
        (waiting,) = json.loads(listed.stdout)["approvals"]
        _hold_token(stack, "bob", "approvals:decide")
        decision = ("approve", waiting["digest"], "--reason=drill", "--yes")
        stack.command("approvals", *decision)
        _hold_token(stack, "alice", scope)
        ran = drill.play()
    return ran


def test_each_fault_is_found_and_the_drill_continues(
    stack: Stack, tmp_path: Path, kms_emulator: KMSEmulator
) -> None:
    """
    A key that signs, a stop, funds and a revocation that did not happen, and a kill.

    What failed is repaired, and the next run continues there; also where the first one
    needed another administrator, or another token.
    """
    new_id = kms_emulator.create_key()
    old, new = stack.address, kms_emulator.address(new_id)
    people: dict[str, Act] = {
        "disable-key": lambda _: 1 / 0,
        "revoke-sessions": lambda _: None,
        "look": lambda drill: os.kill(int(drill["DRILL"]), signal.SIGKILL),
        "fund": lambda _: None,
    }
    drill = Staging(stack, tmp_path, "compromise", people, {"NEW_KEY_ID": new_id})

    drill.require_refusal("31337, which is not named", "--yes", chain_id=1)
    drill.require_refusal("--set needs NEW_KEY_ID", "--yes", given={})
    drill.require_refusal("needs a program disable-key", "--yes", people={})
    drill.require_refusal("standard input is not a terminal", "--json")

    drill.path.write_text("{}", encoding="utf-8")
    assert "is no evidence of this drill" in drill.play().stderr
    drill.path.unlink()

    drill.require_failure("disable-key")
    written = drill.path.read_text(encoding="utf-8")
    planted = written.replace('"facts": {', '"facts": {"path": "/planted",')
    drill.path.write_text(planted, encoding="utf-8")
    assert "is no evidence of this drill" in drill.play().stderr
    drill.path.write_text(written, encoding="utf-8")
    people["disable-key"] = lambda _: None
    drill.require_failure("disable-key", patience=2)
    assert "still signs" in drill.evidence["steps"][-1]["problem"]

    people["disable-key"] = lambda _: kms_emulator.set_state(stack.key_id, "Disabled")
    drill.false = ("stop*", "exit 0")
    drill.require_failure("stop", patience=4)

    drill.false = None
    assert drill.play().returncode == -signal.SIGKILL
    people["look"] = lambda _: None
    drill.require_failure("fund")

    assert "aborted" in drill.answer("no").stderr
    stablecoin.fund(stack.chain_url, new, token=stack.token)
    drill.false = ("keys*rotate*", 'exec {program} "$@" --dry-run')
    drill.require_failed(drill.answer("yes", "yes"), "rotate")
    drill.require_recorded("refused")

    drill.false = None
    ran = _play_by_two(drill)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert drill.evidence["result"] == "passed"
    assert drill.evidence["remains"] == [
        f"{old} is revoked: hotwallet keys reinstate, within a day"
    ]
    assert len(drill.evidence["continued"]) == 10
    drill.require_recorded("succeeded")
    before = drill.evidence
    assert "recorded again" in drill.play().stderr
    assert drill.evidence == before
