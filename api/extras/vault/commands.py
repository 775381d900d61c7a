"""``hotwallet vault``: deploy a vault, show its rules, and propose changes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from api.cli.output import Result, reports
from signer.amounts import format_units, parse_units
from signer.errors import InvalidInputError


if TYPE_CHECKING:
    from api.container import Container
    from api.extras.vault.changes import Change, Step
    from signer.chain.chain import Chain
    from signer.chain.vault import Caps, VaultFacts, VaultRules
    from signer.config.networks import Network
    from signer.errors import Refusal


_SECONDS_OF_DAY = 86_400

_network = click.option("--network", required=True, help="A name of the networks file.")
_vault = click.option(
    "--vault",
    "address",
    metavar="ADDRESS",
    help="The vault, if it is not that of the networks file.",
)


@click.group()
def vault() -> None:
    """
    Deploy a vault, show its rules, and propose changes.

    A vault is a contract that holds the tokens.  The wallet's keys may pay out of it
    within caps, and a guardian, which is no key of the service, sets the rules.
    """


@vault.command()
@_network
@click.option("--guardian", required=True, metavar="ADDRESS", help="A multisig.")
@click.option(
    "--operator",
    "operators",
    multiple=True,
    required=True,
    metavar="ADDRESS",
    help="A key that may pay; repeat it for the standby key.",
)
@click.option(
    "--caps",
    "caps",
    multiple=True,
    required=True,
    metavar="TOKEN=ITEM/DAY",
    help="What an item and a day may pay, such as USDC=1000/50000.",
)
@click.option(
    "--delay-hours",
    type=click.IntRange(1, 24 * 30),
    default=48,
    show_default=True,
    help="How long a raised cap or a new operator waits.  It cannot be changed.",
)
@reports
def deploy(
    container: Container,
    *,
    network: str,
    guardian: str,
    operators: Sequence[str],
    caps: Sequence[str],
    delay_hours: int,
) -> Result:
    """
    Print the data of the transaction that creates a vault.

    Send it without a recipient from any account, which gets no power over the vault.
    Then compare the result: hotwallet vault status.
    """
    from eth_abi.abi import encode

    from api.extras.vault.changes import creation_code
    from signer.addresses import parse_address

    configured = _find_chain(container, network).network
    keeper = parse_address(guardian, field="guardian")
    payers = [parse_address(each, field="operator") for each in operators]
    if keeper in {*payers, *_own_addresses(container)}:
        raise InvalidInputError(
            "must be no key of the service, which it limits", field="guardian"
        )
    given = dict(_parse_caps(configured, each) for each in caps)
    _require_fitting(network, configured, given)
    rows = [
        (configured.tokens[symbol].address, (each.per_item, each.per_day))
        for symbol, each in given.items()
    ]
    arguments = encode(
        ["address", "uint64", "address[]", "(address,(uint96,uint96))[]"],
        [keeper, delay_hours * 3600, payers, rows],
    )
    data = "0x" + (creation_code() + arguments).hex()
    return Result({"chainId": configured.chain_id, "data": data}, [data])


@vault.command()
@_network
@_vault
@click.option(
    "--proposals-since",
    "since",
    type=click.IntRange(min=0),
    metavar="BLOCK",
    help="Show what is proposed, of the blocks from this one on.",
)
@reports
def status(
    container: Container, network: str, address: str | None, since: int | None
) -> Result:
    """
    Show the rules of a vault and what is left of the day.

    The contract keeps no list of proposals: name a block before the first one.
    Exits with 1 if the service would refuse to start with the vault, or if a key that
    was revoked may still pay.
    """
    from signer.chain.vault import NO_VAULT

    chain, rules = _open_rules(container, network, address)
    if not rules.is_vault():
        problems = _show_problems([NO_VAULT])
        return Result({"vault": rules.address, **problems}, [str(NO_VAULT)], False)
    document = _read_status(container, network, chain, rules)
    if since is not None:
        document["proposals"] = _read_proposals(container, network, rules, since)
    return Result(document, _status_lines(document), ok=not document["problems"])


@vault.command()
@_network
@_vault
@click.option("--add-operator", metavar="ADDRESS", help="Let a key pay.")
@click.option("--remove-operator", metavar="ADDRESS", help="Let it pay no more.")
@click.option("--caps", metavar="TOKEN=ITEM/DAY", help="Change the caps of a token.")
@click.option("--withdraw", metavar="TOKEN=AMOUNT", help="Send it to the guardian.")
@click.option("--guardian", metavar="ADDRESS", help="Make another one the guardian.")
@click.option("--cancel", "cancels", is_flag=True, help="Withdraw the proposal of it.")
@click.option(
    "--safe-file",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    help="Write it for Safe's transaction builder, too.",
)
@reports
def propose(
    container: Container,
    network: str,
    address: str | None,
    *,
    cancels: bool,
    safe_file: Path | None,
    **changes: str | None,
) -> Result:
    """
    Print what the guardian signs next to change a rule of a vault.

    Name one change.  A raised cap, an operator or another guardian is proposed first:
    run the command again after the delay for the second step.  Nothing is sent.
    """
    from api.extras.vault import changes as vault_changes

    chain, rules = _open_rules(container, network, address)
    if not rules.is_vault():
        raise InvalidInputError("does not have the code of a vault", field="vault")
    change = _find_change(chain, rules, changes)
    step = vault_changes.find_step(rules, change, cancels=cancels)
    if safe_file is not None and step.data:
        chain_id = chain.network.chain_id
        now = container.clock()
        content = vault_changes.safe_file(chain_id, rules.address, step, now)
        safe_file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return Result(_step_document(chain, rules, step), _step_lines(rules, step))


def _require_fitting(name: str, network: Network, given: Mapping[str, Caps]) -> None:
    """Refuse caps with which no process would start."""
    from signer.chain.vault import Caps, find_cap_problems

    for symbol, token in network.tokens.items():
        caps = given.get(symbol, Caps(0, 0))
        for problem in find_cap_problems(name, symbol, token, caps):
            raise InvalidInputError(
                f"do not fit the networks file ({problem.code}): {problem.message}",
                field="caps",
            )


def _own_addresses(container: Container) -> list[str]:
    ring = container.store.keys()
    return [key.address for key in ring]


def _find_chain(container: Container, name: str) -> Chain:
    if name not in container.chains:
        raise InvalidInputError("is not in the networks file", field="network")
    return container.chains[name]


def _open_rules(
    container: Container, network: str, address: str | None
) -> tuple[Chain, VaultRules]:
    from signer.addresses import parse_address
    from signer.chain.vault import VaultRules

    chain = _find_chain(container, network)
    given = address or chain.network.vault
    if given is None:
        raise InvalidInputError("is not in the networks file: name it", field="vault")
    return chain, VaultRules(chain.client, parse_address(given, field="vault"))


def _parse_caps(network: Network, text: str) -> tuple[str, Caps]:
    from signer.chain.vault import MAX_AMOUNT, Caps

    symbol, amounts = _split_token(network, text, field="caps")
    item, slash, day = amounts.partition("/")
    if not slash:
        raise InvalidInputError("must be TOKEN=ITEM/DAY", field="caps")
    decimals = network.tokens[symbol].decimals
    units = [parse_units(each, decimals, may_be_zero=True) for each in (item, day)]
    if max(units) > MAX_AMOUNT:
        raise InvalidInputError("is more than a vault can count", field="caps")
    return symbol, Caps(*units)


def _split_token(network: Network, text: str, *, field: str) -> tuple[str, str]:
    symbol, equals, rest = text.partition("=")
    if not equals or symbol not in network.tokens:
        raise InvalidInputError("must begin with TOKEN= of the network", field=field)
    return symbol, rest


def _find_change(
    chain: Chain, rules: VaultRules, given: Mapping[str, str | None]
) -> Change:
    from api.extras.vault import changes
    from signer.addresses import parse_address

    named = {name: text for name, text in given.items() if text is not None}
    if len(named) != 1:
        raise click.UsageError("name one change; --help lists them")
    ((name, text),) = named.items()
    if name == "caps":
        symbol, caps = _parse_caps(chain.network, text)
        token = chain.network.tokens[symbol].address
        return changes.set_caps(token, caps, rules.caps(token))
    if name == "withdraw":
        symbol, amount = _split_token(chain.network, text, field=name)
        sent = chain.network.tokens[symbol]
        return changes.withdraw(sent.address, parse_units(amount, sent.decimals))
    make = {
        "add_operator": changes.add_operator,
        "remove_operator": changes.remove_operator,
        "guardian": changes.set_guardian,
    }[name]
    return make(parse_address(text, field=name))


def _read_status(
    container: Container, name: str, chain: Chain, rules: VaultRules
) -> dict[str, Any]:
    from signer.chain.vault import find_problems
    from signer.keys.vault_operators import RevokedOperator
    from signer.model.key import KeyState

    today = int(container.clock().timestamp()) // _SECONDS_OF_DAY
    network, ring = chain.network, container.store.keys()
    keys = [key.address for key in ring]
    facts = rules.read(network, keys)
    is_production = container.settings.is_production
    problems = [*find_problems(name, network, facts, ring, is_production=is_production)]
    revoked = [
        RevokedOperator(name, key.address, is_known=True).problem
        for key in ring
        if key.state is KeyState.BLOCKED and key.address in facts.operators
    ]
    return {
        "vault": rules.address,
        "guardian": facts.guardian,
        "delaySeconds": facts.delay,
        "operators": [key for key in keys if key in facts.operators],
        "otherKeys": [key for key in keys if key not in facts.operators],
        "tokens": [*_read_tokens(chain, rules, facts, today)],
        **_show_problems([*problems, *revoked]),
    }


def _read_proposals(
    container: Container, name: str, rules: VaultRules, since: int
) -> list[dict[str, str]]:
    from api.backend_factories import open_histories
    from api.extras.vault.changes import describe
    from signer.chain.vault import PROPOSED_EVENT

    history = open_histories({name: container.networks[name]})[name]
    last = history.latest_block().number
    events = history.events(rules.address, PROPOSED_EVENT, since, last)
    return [
        {"call": describe(call), "dueAt": datetime.fromtimestamp(due, UTC).isoformat()}
        for call, due in rules.pending(events).items()
    ]


def _show_problems(problems: Sequence[Refusal]) -> dict[str, Any]:
    return {"problems": [{"code": e.code, "detail": e.message} for e in problems]}


def _read_tokens(
    chain: Chain, rules: VaultRules, facts: VaultFacts, today: int
) -> Iterator[dict[str, Any]]:
    for symbol, token in chain.network.tokens.items():
        caps, spent = facts.caps[symbol], rules.spent(token.address, today)
        amounts = {
            "perItem": caps.per_item,
            "perDay": caps.per_day,
            "leftToday": max(caps.per_day - spent, 0),
            "balance": chain.token_balance(token.address, rules.address),
        }
        shown = {key: format_units(n, token.decimals) for key, n in amounts.items()}
        yield {"token": symbol, **shown}


def _status_lines(document: Mapping[str, Any]) -> Iterator[str]:
    yield f"guardian {document['guardian']}"
    yield f"delay {document['delaySeconds'] // 3600} hours"
    for address in document["operators"]:
        yield f"operator {address}"
    for address in document["otherKeys"]:
        yield f"no operator {address}"
    for each in document["tokens"]:
        yield (
            f"{each['token']}: {each['perItem']} an item, {each['perDay']} a day,"
            f" {each['leftToday']} left today, {each['balance']} in the vault"
        )
    for each in document.get("proposals", ()):
        yield f"proposed: {each['call']}, from {each['dueAt']} on"
    for problem in document["problems"]:
        yield f"problem: {problem['code']}: {problem['detail']}"


def _step_document(chain: Chain, rules: VaultRules, step: Step) -> dict[str, Any]:
    document = {
        "status": "sign" if step.data else "wait",
        "signer": step.signer,
        "function": step.function,
    }
    if step.due is not None:
        return {**document, "dueAt": step.due.isoformat()}
    call = {"chainId": chain.network.chain_id, "to": rules.address, "value": "0"}
    return {**document, **call, "data": "0x" + step.data.hex()}


def _step_lines(rules: VaultRules, step: Step) -> Iterator[str]:
    if step.due is not None:
        yield f"{step.function} is proposed; run this again after {step.due:%F %H:%MZ}"
        return
    yield f"signer {step.signer}"
    yield f"to {rules.address}"
    yield f"function {step.function}"
    yield f"data 0x{step.data.hex()}"
