"""The test tokens agree with their sources, and refuse calls as real ones do."""

import re
from pathlib import Path

import pytest

from dev import stablecoin as coin
from dev.rpc import RPCError
from dev.stablecoin import build
from tests.fixtures.chain import DevChain
from tests.support.payments import RECIPIENT


def test_the_artifacts_agree_with_the_sources() -> None:
    """The pinned compiler creates the committed bytes."""
    assert build.main(["--check"]) == 0


def test_another_artifact_is_detected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check fails for another bytecode of either token."""
    artifacts = {
        contract: (build.HERE / f"{contract}.json").read_text()
        for contract in build.CONTRACTS
    }
    monkeypatch.setattr(build, "build", lambda: artifacts)  # Compiled above.
    for contract, artifact in artifacts.items():
        (tmp_path / f"{contract}.json").write_text(artifact.replace("0x60", "0x61", 1))

    assert build.main(["--check", "--artifacts", str(tmp_path)]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "TestUSD.json is not the output of TestUSD.sol",
        "WeirdUSD.json is not the output of WeirdUSD.sol",
    ]


def test_the_behaviours_agree_with_the_source() -> None:
    """Python and Solidity number the behaviours alike."""
    source = (build.HERE / "WeirdUSD.sol").read_text(encoding="utf-8")
    body = source[source.index("enum Behaviour {") : source.index("}")]
    names = re.findall(r"^ +(\w+),? //", body, re.MULTILINE)

    assert [name.replace("_", "").lower() for name in coin.Behaviour.__members__] == [
        name.lower() for name in names
    ]


def test_only_the_issuer_may_administer(fresh_anvil: DevChain) -> None:
    """Others cannot mint, pause or block."""
    stranger = fresh_anvil.rpc("eth_accounts")[1]
    for data in (
        coin.calldata("mint(address,uint256)", stranger, 1),
        coin.calldata("setPaused(bool)", True),
        coin.calldata("setBlocked(address,bool)", stranger, True),
    ):
        transaction = {
            "from": stranger,
            "to": fresh_anvil.token,
            "data": "0x" + data.hex(),
        }

        with pytest.raises(RPCError, match=r"only the issuer|failed"):
            fresh_anvil.rpc.transact(transaction)


def test_a_paused_token_refuses_transfers(fresh_anvil: DevChain) -> None:
    """They succeed after the pause."""
    url, token = fresh_anvil.url, fresh_anvil.token
    coin.administer(url, token, "mint(address,uint256)", fresh_anvil.deployer, 5)
    coin.administer(url, token, "setPaused(bool)", True)

    with pytest.raises(RPCError, match=r"paused|failed"):
        coin.administer(url, token, "transfer(address,uint256)", RECIPIENT, 5)

    coin.administer(url, token, "setPaused(bool)", False)
    coin.administer(url, token, "transfer(address,uint256)", RECIPIENT, 5)

    assert coin.balance_of(url, token, RECIPIENT) == 5


def test_an_allowance_is_spent_once(fresh_anvil: DevChain) -> None:
    """A ``transferFrom`` needs an allowance, and uses it up."""
    url, token, owner = fresh_anvil.url, fresh_anvil.token, fresh_anvil.deployer
    coin.administer(url, token, "mint(address,uint256)", owner, 5)
    coin.administer(url, token, "approve(address,uint256)", owner, 5)
    spend = ("transferFrom(address,address,uint256)", owner, RECIPIENT, 5)

    coin.administer(url, token, *spend)

    assert coin.balance_of(url, token, RECIPIENT) == 5
    with pytest.raises(RPCError):
        coin.administer(url, token, *spend)
