"""The test tokens agree with their sources, and refuse calls as real ones do."""

import re
from pathlib import Path

import pytest

from dev import stablecoin as coin
from dev.stablecoin import build


def test_the_artifacts_agree_with_the_sources() -> None:
    """The pinned compiler creates the committed bytes."""
    assert build.main(["--check"]) == 0


def test_another_artifact_is_detected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check fails for another bytecode of any token."""
    artifacts = {
        contract: (build.HERE / f"{contract}.json").read_text()
        for contract in build.CONTRACTS
    }
    monkeypatch.setattr(build, "build", lambda: artifacts)  # Compiled above.
    for contract, artifact in artifacts.items():
        (tmp_path / f"{contract}.json").write_text(artifact.replace("0x60", "0x61", 1))

    assert build.main(["--check", "--artifacts", str(tmp_path)]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"{contract}.json is not the output of {contract}.sol" for contract in artifacts
    ]


def test_the_behaviours_agree_with_the_source() -> None:
    """Python and Solidity number the behaviours alike."""
    source = (build.HERE / "WeirdUSD.sol").read_text(encoding="utf-8")
    body = source[source.index("enum Behaviour {") : source.index("}")]
    names = re.findall(r"^ +(\w+),? //", body, re.MULTILINE)

    assert [name.replace("_", "").lower() for name in coin.Behaviour.__members__] == [
        name.lower() for name in names
    ]
