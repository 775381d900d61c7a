"""Ending the pause of a wallet: repair, and abandon."""

from collections.abc import Iterator, Mapping, Sequence

from api.console.changes.change import (
    REASON,
    Change,
    Field,
    Options,
    Outcome,
    Plan,
    Values,
    count,
)
from api.console.changes.stops import ALL
from api.container import Container
from api.views.repairs import repair_lines
from signer.chain.chain import Chain
from signer.deadline import Deadlines
from signer.errors import ChainUnavailableError
from signer.model.audit_record import Actor
from signer.refunds.wallet_repair import RepairResult, repair_wallets


_PAGE = "/console/wallets"

_NODES_SECONDS = 4.0

_READY = "nothing prevents that it is resumed"

_deadlines = Deadlines(4)


def _networks(container: Container) -> Options:
    return {name: name for name in container.networks}


def _networks_and_all(container: Container) -> Options:
    return {**_networks(container), ALL: "every network"}


_NETWORK = Field("network", "Network", options=_networks)
_NETWORKS = Field("network", "Network", options=_networks_and_all)
_ADDRESS = Field("address", "Address of the revoked key")


def _plan_repair(container: Container, values: Values) -> Plan:
    """Compare the wallets with their chain, as a dry run of the command does."""
    name = values["network"]
    chains = {name: container.chains[name]}
    found = _deadlines.within(
        _NODES_SECONDS,
        lambda: _compare(container, chains),
        name="repair",
        late=ChainUnavailableError,
    )
    notes = [line.strip() for each in found for line in repair_lines(each, _READY)]
    foreign = any(each.wallet_status.foreign for each in found)
    if foreign:
        notes.append(
            "A foreign transaction was signed with your key, and not by this service:"
            " find out who sent it, and rotate the key if you cannot."
        )
    return Plan(
        [*_paused_facts(found)],
        notes or ["No wallet has paid anything there yet."],
        needs_approval=foreign and container.approvals.required,
    )


def _compare(
    container: Container, chains: Mapping[str, Chain]
) -> Sequence[RepairResult]:
    clock = container.ledger_clock
    return [*repair_wallets(container.store, chains, clock, apply=False)]


def _paused_facts(found: Sequence[RepairResult]) -> Iterator[tuple[str, str]]:
    """Yield which pauses end, and each transaction that is accepted with them."""
    for each in found:
        wallet = each.wallet_status.wallet
        if wallet.is_paused:
            yield "resume the wallet", f"{wallet.sender}, paused: {wallet.pause_reason}"
        for foreign in each.wallet_status.foreign:
            yield f"accept nonce {foreign.nonce}", foreign.tx_hash


def _repair(container: Container, values: Values, actor: Actor) -> Outcome:
    done = container.nonce_admin.repair(values["network"], actor)
    paused = [each for each in done if each.is_open]
    problem = next((each.code for each in paused if each.code is not None), None)
    resumed = sum(each.resumed for each in done)
    summary = (
        f"{count(len(paused), 'wallet')} still paused" if paused else "No pause is left"
    )
    details = [line.strip() for each in done for line in repair_lines(each, "")]
    details.insert(0, f"resumed: {resumed}")
    step = ("Approvals", "/console/approvals")
    return Outcome(
        summary,
        [line for line in details if line],
        problem,
        step if problem == "approval-required" else None,
    )


def _plan_abandon(container: Container, values: Values) -> Plan:
    address, network = values["address"], _named(values)
    waiting = container.nonce_admin.waiting(address, network)
    facts: list[tuple[str, str]] = []
    for name, is_waiting in waiting.items():
        facts.append((name, "is paused" if is_waiting else "is not paused"))
        chain_id = container.networks[name].chain_id
        facts += [
            (f"accept nonce {each.nonce} on {name}", each.tx_hash)
            for each in container.store.foreign_transactions(chain_id, address)
            if is_waiting
        ]
    return Plan(
        facts,
        [
            "The service stops waiting for pending transactions of this address.",
            "Abandon only transactions that are not ours.",
            "A payment that the ledger has forgotten would be paid twice.",
        ],
        needs_approval=any(waiting.values()) and container.approvals.required,
    )


def _abandon(container: Container, values: Values, actor: Actor) -> Outcome:
    changed = container.nonce_admin.abandon(values["address"], _named(values), actor)
    details = [
        f"{name}: {'abandoned' if is_new else 'was not paused'}"
        for name, is_new in changed.items()
    ]
    done = any(changed.values())
    return Outcome("The wait is over" if done else "Nothing was paused", details)


def _named(values: Values) -> str | None:
    """Return the network of the form; None stands for all."""
    return None if values["network"] == ALL else values["network"]


REPAIR = Change(
    "repair-nonces",
    "Repair wallets",
    "nonces:repair",
    "hotwallet nonce repair",
    _PAGE,
    (_NETWORK, REASON),
    _plan_repair,
    _repair,
)

ABANDON = Change(
    "abandon-nonces",
    "Stop waiting for a revoked key",
    "nonces:repair",
    "hotwallet nonce abandon",
    _PAGE,
    (_ADDRESS, _NETWORKS, REASON),
    _plan_abandon,
    _abandon,
    is_danger=True,
)
