"""``hotwallet drill compromise`` on a stack whose keys are in an emulator of KMS."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev import stablecoin
from dev.kms_emulator import KMSEmulator
from dev.stack import Stack, running_stack
from tests.extras.drills.people import Act
from tests.extras.drills.playing import Staging
from tests.support.forked_processes import ForkedHotWallet


@pytest.fixture
def stack(tmp_path: Path, kms_emulator: KMSEmulator) -> Iterator[Stack]:
    with running_stack(
        tmp_path / "home",
        kms=kms_emulator,
        settings={"WEB_CONCURRENCY": "1", "KMS_TIMEOUT_MS": "8000"},
        program=ForkedHotWallet(),
    ) as running:
        yield running


def test_each_fault_is_found_and_the_drill_continues(
    stack: Stack, tmp_path: Path, kms_emulator: KMSEmulator
) -> None:
    """
    A key that signs, a stop, funds and a revocation that did not happen, and a kill.

    What failed is repaired, and the next run continues there.
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
    ran = drill.play()
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert drill.evidence["result"] == "passed"
    assert drill.evidence["remains"] == [
        f"{old} is revoked: hotwallet keys reinstate, within a day"
    ]
    assert len(drill.evidence["continued"]) == 7
    drill.require_recorded("succeeded")
    before = drill.evidence
    assert "recorded again" in drill.play().stderr
    assert drill.evidence == before
