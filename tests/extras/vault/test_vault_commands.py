"""``hotwallet vault`` with a real vault; its guardian is an account of anvil."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from eth_utils.address import to_checksum_address

from dev import stablecoin as coin
from signer.chain.vault import Item
from tests.api.commands import Finished, Run
from tests.fixtures.chain import DevChain
from tests.support.refunds import SECOND, World
from tests.support.vault import DELAY, LocalVault, deploy_vault


UNIT = 10**6
OTHER = to_checksum_address("0x" + "77" * 20)


@pytest.fixture(autouse=True)
def _enrolled(world: World) -> None:
    """The wallet's key is that of the service."""
    assert world.ring


@pytest.fixture
def vault(world: World, fresh_anvil: DevChain) -> LocalVault:
    """A vault with the wallet's key as operator: 100 an item, 500 a day."""
    return deploy_vault(
        fresh_anvil.url,
        fresh_anvil.token,
        caps=(100 * UNIT, 500 * UNIT),
        funds=1_000 * UNIT,
        operators=[world.signer.address],
    )


def _propose(run: Run, vault: LocalVault, *change: str) -> Any:
    finished = run(
        "vault",
        "propose",
        "--network=local",
        f"--vault={vault.address}",
        *change,
        "--json",
    )
    assert finished.status == 0, finished.err
    return finished.json


def _status(run: Run, address: str, *options: str) -> Finished:
    where = ("--network=local", f"--vault={address}")
    return run("vault", "status", *where, *options)


def _sign(vault: LocalVault, step: dict[str, Any]) -> None:
    """Send what the command printed, from its signer."""
    vault.rpc("anvil_impersonateAccount", step["signer"])
    vault.rpc("anvil_setBalance", step["signer"], hex(10**18))
    assert to_checksum_address(step["to"]) == vault.address
    vault.send(step["signer"], bytes.fromhex(step["data"][2:]))


def test_the_printed_data_creates_a_vault(
    run: Run, world: World, fresh_anvil: DevChain
) -> None:
    """With the rules of the options; any account can send it."""
    finished = run(
        "vault",
        "deploy",
        "--network=local",
        f"--guardian={OTHER}",
        f"--operator={world.signer.address}",
        "--caps=TUSD=100/500.5",
        "--delay-hours=24",
        "--json",
    )
    assert finished.json["chainId"] == 31337
    sender = coin.issuer(fresh_anvil.url)
    created = {"from": sender, "data": finished.json["data"], "gas": hex(3_000_000)}
    address = fresh_anvil.rpc.transact(created)["contractAddress"]

    shown = _status(run, address, "--json")

    assert shown.status == 0, shown.out
    assert shown.json == {
        "vault": to_checksum_address(address),
        "guardian": OTHER,
        "delaySeconds": 86_400,
        "operators": [world.signer.address],
        "otherKeys": [],
        "tokens": [
            {
                "token": "TUSD",
                "perItem": "100.000000",
                "perDay": "500.500000",
                "leftToday": "500.500000",
                "balance": "0.000000",
            }
        ],
        "problems": [],
    }


def test_a_guardian_is_no_key_of_the_service(run: Run, world: World) -> None:
    """It would be limited by itself."""
    own = world.signer.address
    for guardian, operator in ((own, OTHER), (OTHER, OTHER)):
        finished = run(
            "vault",
            "deploy",
            "--network=local",
            f"--guardian={guardian}",
            f"--operator={operator}",
            "--caps=TUSD=1/1",
        )
        assert finished.status == 1
        assert "guardian must be no key of the service" in finished.err


WRONG = (
    (("--network=other", "--caps=TUSD=1/1"), "network is not in the networks file"),
    (("--network=local", "--caps=TUSD=1"), "caps must be TOKEN=ITEM/DAY"),
    (("--network=local", "--caps=OTHER=1/1"), "caps must begin with TOKEN="),
    (("--network=local", "--caps=TUSD"), "caps must begin with TOKEN="),
    (("--network=local", f"--caps=TUSD=1/{10**23}"), "more than a vault can count"),
    (("--network=local", "--caps=TUSD=1/-1"), "amount"),
    (("--network=local", "--caps=TUSD=1001/9000"), "vault-caps-above-limits"),
    (("--network=local", "--caps=TUSD=1/0"), "vault-caps-missing"),
)


def test_wrong_options_are_refused(run: Run, world: World) -> None:
    """With the name of the option."""
    given = (f"--guardian={OTHER}", f"--operator={world.signer.address}")
    for options, problem in WRONG:
        finished = run("vault", "deploy", *given, *options)

        assert finished.status == 1, options
        assert problem in finished.err


def test_the_status_names_each_problem(
    run: Run, world: World, vault: LocalVault
) -> None:
    """A key that may not pay, a guardian of ours, no caps; and what is left."""
    vault.call(vault.guardian, "removeOperator(address)", world.signer.address)
    vault.call(
        vault.guardian, "setCaps(address,uint96,uint96)", vault.token, 0, 500 * UNIT
    )

    finished = _status(run, vault.address)

    assert finished.status == 1
    assert finished.out.splitlines() == [
        f"guardian {to_checksum_address(vault.guardian)}",
        "delay 48 hours",
        f"no operator {world.signer.address}",
        (
            "TUSD: 0.000000 an item, 500.000000 a day, 500.000000 left today,"
            " 1000.000000 in the vault"
        ),
        (
            f"problem: vault-operator-missing: the key of {world.signer.address} may"
            " not pay; its guardian adds it: `hotwallet vault propose --network local"
            f" --add-operator {world.signer.address}`"
        ),
        (
            "problem: vault-caps-missing: the caps of TUSD are 0, so nothing can be"
            " paid; its guardian sets them: `hotwallet vault propose --network local"
            " --caps TUSD=ITEM/DAY`"
        ),
    ]


def test_a_guardian_that_is_a_key_is_a_problem(
    run: Run, world: World, fresh_anvil: DevChain
) -> None:
    """Its thief could raise the caps."""
    own = world.signer.address
    vault = deploy_vault(
        fresh_anvil.url,
        fresh_anvil.token,
        caps=(1, 1),
        funds=0,
        operators=[own],
        guardian=own,
    )
    shown = _status(run, vault.address, "--json")

    assert shown.status == 1
    (problem,) = shown.json["problems"]
    assert problem["code"] == "vault-guardian-own"


def test_a_revoked_key_that_may_pay_is_a_problem(
    run: Run, world: World, vault: LocalVault
) -> None:
    """Until the guardian has removed it."""
    revoked = world.signer.address
    vault.after_delay("addOperator(address)", SECOND.address)
    world.rotate(block=True)
    (problem,) = _status(run, vault.address, "--json").json["problems"]

    assert problem["code"] == "vault-operator-revoked"
    assert f"--remove-operator {revoked}" in problem["detail"]
    _sign(vault, _propose(run, vault, f"--remove-operator={revoked}"))
    assert _status(run, vault.address).status == 0


def test_the_vault_of_the_networks_file_need_not_be_named(
    run: Run, vault: LocalVault, networks: Callable[..., Path]
) -> None:
    """The commands in messages do not name it."""
    for arguments in (("status",), ("propose", f"--add-operator={OTHER}")):
        finished = run("vault", *arguments, "--network=local", "--json")
        assert finished.status == 1
        assert "vault is not in the networks file: name it" in finished.err
    networks(vault=vault.address)
    for arguments in (("status",), ("propose", f"--add-operator={OTHER}")):
        finished = run("vault", *arguments, "--network=local", "--json")
        assert finished.status == 0, finished.err
        assert vault.address in finished.out


def test_another_contract_is_no_vault(run: Run, vault: LocalVault) -> None:
    """Its answers would mean nothing."""
    finished = _status(run, vault.token)
    assert finished.status == 1
    assert finished.out.startswith("vault-code-wrong: the address does not have the")
    where = ("--network=local", f"--vault={vault.token}")
    finished = run("vault", "propose", *where, f"--add-operator={OTHER}")
    assert finished.status == 1
    assert "vault does not have the code of a vault" in finished.err


def test_one_change_is_named(run: Run, vault: LocalVault) -> None:
    """None and two are refused."""
    where = ("--network=local", f"--vault={vault.address}")
    for changes in ([], [f"--add-operator={OTHER}", f"--guardian={OTHER}"]):
        finished = run("vault", "propose", *where, *changes)

        assert finished.status == 2
        assert "name one change" in finished.err


def test_less_power_is_one_step(run: Run, world: World, vault: LocalVault) -> None:
    """Lower caps, a removed operator, and a withdrawal."""
    own = world.signer.address
    for change in ("--caps=TUSD=100/400", "--withdraw=TUSD=10"):
        step = _propose(run, vault, change)
        assert step["status"] == "sign"
        _sign(vault, step)
    assert vault.balance() == 990 * UNIT
    caps = vault.read(["uint96"] * 2, "caps(address)", vault.token)
    assert caps == (100 * UNIT, 400 * UNIT)
    _sign(vault, _propose(run, vault, f"--remove-operator={own}"))

    assert vault.read(["bool"], "isOperator(address)", own) == (False,)


@pytest.mark.parametrize(
    ("change", "signature"),
    [
        (f"--add-operator={OTHER}", "isOperator(address)"),
        ("--caps=TUSD=101/1", "caps(address)"),
        (f"--guardian={OTHER}", "guardian()"),
    ],
)
def test_more_power_is_two_steps(
    run: Run, vault: LocalVault, change: str, signature: str
) -> None:
    """Propose, wait, and make the call; it has no effect earlier."""
    step = _propose(run, vault, change)
    assert step["function"] == "propose(bytes)"
    _sign(vault, step)
    waiting = _propose(run, vault, change)
    assert waiting["status"] == "wait"
    assert "data" not in waiting
    where = ("--network=local", f"--vault={vault.address}")
    line = run("vault", "propose", *where, change).out
    assert "is proposed; run this again after" in line

    vault.rpc("evm_increaseTime", DELAY)
    vault.rpc("evm_mine")
    last = _propose(run, vault, change)
    _sign(vault, last)

    arguments = {
        "isOperator(address)": ((OTHER,), ["bool"], (True,)),
        "caps(address)": ((vault.token,), ["uint96"] * 2, (101 * UNIT, UNIT)),
        "guardian()": ((), ["address"], (OTHER.lower(),)),
    }[signature]
    given, types, expected = arguments
    assert vault.read(types, signature, *given) == expected


def test_a_proposal_is_cancelled(run: Run, vault: LocalVault) -> None:
    """Then it must be proposed again."""
    change = f"--add-operator={OTHER}"
    _sign(vault, _propose(run, vault, change))
    step = _propose(run, vault, change, "--cancel")
    assert step["function"] == "cancel(bytes)"
    _sign(vault, step)

    assert _propose(run, vault, change)["function"] == "propose(bytes)"


def test_pending_proposals_are_shown(run: Run, vault: LocalVault) -> None:
    """Those that were neither made nor cancelled; also of a guardian's thief."""
    for change in (
        f"--add-operator={OTHER}",
        "--caps=TUSD=101/1",
        f"--guardian={OTHER}",
        f"--add-operator={vault.guardian}",
    ):
        _sign(vault, _propose(run, vault, change))
    cancelled = f"--add-operator={vault.guardian}"
    _sign(vault, _propose(run, vault, cancelled, "--cancel"))
    vault.call(vault.guardian, "propose(bytes)", bytes.fromhex("c0ffee"))
    since = ("--proposals-since", "0")
    shown = _status(run, vault.address, *since, "--json").json["proposals"]
    lines = _status(run, vault.address, *since).out

    assert [each["call"] for each in shown] == [
        f"addOperator({OTHER.lower()})",
        f"setCaps({vault.token.lower()}, {101 * UNIT}, {UNIT})",
        f"setGuardian({OTHER.lower()})",
        "0xc0ffee",
    ]
    assert f"proposed: addOperator({OTHER.lower()}), from 20" in lines
    assert "proposed:" not in _status(run, vault.address).out
    head = int(vault.rpc("eth_blockNumber"), 16)
    later = _status(run, vault.address, "--proposals-since", str(head + 1), "--json")
    assert later.json["proposals"] == []


def test_a_safe_reads_the_file(run: Run, vault: LocalVault, tmp_path: Path) -> None:
    """The transaction builder's format: chain, address, value and data."""
    path = tmp_path / "safe.json"
    step = _propose(run, vault, f"--add-operator={OTHER}", f"--safe-file={path}")

    content = json.loads(path.read_text())

    assert content["chainId"] == "31337"
    assert content["meta"]["createdFromSafeAddress"] == step["signer"]
    (transaction,) = content["transactions"]
    assert transaction == {
        "to": vault.address,
        "value": "0",
        "data": step["data"],
        "contractMethod": None,
        "contractInputsValues": None,
    }


def test_what_was_spent_today_is_not_left(run: Run, vault: LocalVault) -> None:
    """Until the next day in UTC."""
    vault.rpc("anvil_impersonateAccount", vault.operators[0])
    vault.pay([Item(OTHER, 60 * UNIT, bytes(16))])

    (token,) = _status(run, vault.address, "--json").json["tokens"]

    assert token["leftToday"] == "440.000000"
    assert token["balance"] == "940.000000"
