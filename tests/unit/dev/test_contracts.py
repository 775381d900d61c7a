"""The vault: forge's tests pass, and the artefact is what the source compiles to."""

import shutil
from pathlib import Path

import pytest

from dev import contracts


def test_another_artefact_is_detected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check fails for another bytecode, and writing corrects it."""
    built = contracts.ARTEFACT.read_text()
    artefact = tmp_path / "vault.json"
    artefact.write_text(built.replace("0x60", "0x61", 1))
    monkeypatch.setattr(contracts, "ARTEFACT", artefact)
    monkeypatch.setattr(contracts, "build", lambda out: built)  # Compiled above.

    assert contracts.main(["--check"]) == 1
    assert "vault.json is not what the source" in capsys.readouterr().err
    assert contracts.main([]) == 0
    assert contracts.main(["--check"]) == 0


def test_the_tests_of_forge(tmp_path: Path) -> None:
    """With short fuzz runs; the pinned compiler creates the committed bytes."""
    contracts.forge("test", out=tmp_path)

    assert contracts.build(tmp_path) == contracts.ARTEFACT.read_text()


@pytest.mark.soak
def test_the_tests_of_forge_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the runs of the profile ``soak`` in ``foundry.toml``."""
    monkeypatch.setenv("FOUNDRY_PROFILE", "soak")
    contracts.forge("test", out=tmp_path)


# Each is a mistake that a change of the contract could make.
BUGS = {
    "a lowered cap underflows": (
        "cap.perDay > spent ? cap.perDay - spent : 0",
        "cap.perDay - spent",
    ),
    "a day never ends": ("spending[token].day == today", "spending[token].day > 0"),
    "each call has a day": ("spending[token].day == today", "false"),
    "zero is paid": ("amount == 0 || amount", "amount"),
    "no cap of an item": ("amount > perItem", "amount > cap.perDay"),
    "no cap of the day": ("amount > left", "amount > cap.perDay"),
    "gas decides": ("if (gasleft() < MIN_GAS) revert TooLittleGas();", ""),
    "a little gas decides": ("MIN_GAS = 320_000", "MIN_GAS = 200_000"),
    "a token burns all gas": ("amount, ITEM_GAS)", "amount, gasleft())"),
    "false is not counted": ("if (end == End.NotTrue) left -= amount;", ""),
    "paid is not counted": ("left -= amount;\n                emit", "emit"),
    "pay can be entered": (
        "pay(address token, bytes calldata items) external locked",
        "pay(address token, bytes calldata items) external",
    ),
    "withdraw can be entered": (
        "withdraw(address token, uint256 amount) external locked",
        "withdraw(address token, uint256 amount) external",
    ),
    "any sender pays": ("if (!isOperator[msg.sender]) revert NotAllowed();", ""),
    "half an item": ("if (items.length % ITEM_SIZE != 0) revert NotItems();", ""),
    "a cap is raised at once": (
        "perItem > old.perItem || perDay > old.perDay",
        "perItem > old.perItem && perDay > old.perDay",
    ),
    "a proposal is not awaited": ("due == 0 || block.timestamp < due", "due == 0"),
    "no proposal is needed": ("due == 0 || block.timestamp", "block.timestamp"),
    "a proposal is used twice": ("        delete dueAt[guardian][change];\n", ""),
    "a proposal outlives its guardian": ("dueAt[guardian]", "dueAt[address(0)]"),
    "a proposal is not cancelled": ("delete dueAt[guardian][keccak256(call)];", ""),
    "an operator is added at once": (
        "useProposal();\n        isOperator",
        "isOperator",
    ),
    "an operator removes another": (
        "msg.sender == operator && isOperator[operator]",
        "isOperator[msg.sender]",
    ),
    "a stranger resigns": (" && isOperator[operator];", ";"),
    "a guardian is put in place": (
        "if (msg.sender != next) revert",
        "if (false) revert",
    ),
    "a guardian is not awaited": ("useProposal();\n        guardian", "guardian"),
    "a refused withdrawal": ("if (end != End.Paid) revert NotWithdrawn(end);", ""),
    "code that is gone": ("token.code.length > 0 ? End.Paid : End.NoCode", "End.Paid"),
    "a short answer": ("size >= 32 && answer == 1", "answer == 1"),
    "an answer of two": ("size >= 32 && answer == 1", "size >= 32 && answer > 0"),
    "a revert is counted": (
        "if (!success) return End.Reverted",
        "if (!success) return End.NotTrue",
    ),
    "another mark": ("mark = bytes16(rest)", "mark = bytes16(payment)"),
}


@pytest.mark.soak
@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(tmp_path: Path, bug: str) -> None:
    """By the tests of forge."""
    project = tmp_path / "contracts"
    ignored = shutil.ignore_patterns("out", "cache", "Proofs.t.sol")
    shutil.copytree(contracts.CONTRACTS, project, ignore=ignored)
    for name in ("dev", "node_modules"):
        (tmp_path / name).symlink_to(contracts.CONTRACTS.parent / name)
    source = project / "src" / "Vault.sol"
    before, after = BUGS[bug]
    text = source.read_text()
    assert before in text
    source.write_text(text.replace(before, after))

    with pytest.raises(RuntimeError, match=r"forge test failed:(?s:.*)\[FAIL"):
        contracts.forge("test", "--fail-fast", out=tmp_path / "out", project=project)
