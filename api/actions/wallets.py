"""Ending the pause of a wallet: repair, and abandon."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from api.actions.action import (
    EVERY,
    Action,
    Answer,
    Field,
    FieldKind,
    Plan,
    Proposed,
    Texts,
    Values,
)
from signer.audit.actions import AuditAction
from signer.model.audit_record import Actor


if TYPE_CHECKING:
    from api.container import Container
    from signer.deadline import Deadlines
    from signer.refunds.nonce_admin import RepairResult


_PAGE = "/console/wallets"
_SCOPE = "nonces:repair"

_NODES_SECONDS = 4.0

_READY = "nothing prevents that it is resumed"
_NEXT = "to accept this and resume the wallet: omit --dry-run"


@cache
def _deadlines() -> Deadlines:
    from signer.deadline import Deadlines

    return Deadlines(4)  # It may be made only after a fork.


def _networks(container: Container) -> Texts:
    return {**{name: name for name in container.networks}, EVERY: "every network"}


_NETWORK = Field(
    "network",
    "On this network only.",
    kind=FieldKind.NAME,
    is_required=False,
    choices=_networks,
    example="polygon",
)
_ADDRESS = Field(
    "address",
    "The address of a revoked key.",
    kind=FieldKind.ADDRESS,
    label="Address of the revoked key",
    argument="ADDRESS",
)


def _compare(container: Container, network: str | None) -> Sequence[RepairResult]:
    from signer.errors import NotFoundError
    from signer.refunds.nonce_admin import repair_wallets

    chains = container.chains
    if network is not None and network not in chains:
        raise NotFoundError("there is no such network in the networks file")
    chosen = chains if network is None else {network: chains[network]}
    return [
        *repair_wallets(container.store, chosen, container.ledger_clock, apply=False)
    ]


def _plan_repair(container: Container, values: Values) -> Plan:
    """Compare the wallets with their chain, as a dry run of the command does."""
    from api.views.administration import repair_lines
    from signer.errors import ChainUnavailableError

    found = _deadlines().within(
        _NODES_SECONDS,
        lambda: _compare(container, values["network"]),
        name="repair",
        late=ChainUnavailableError,
    )
    notes = [line.strip() for each in found for line in repair_lines(each, _READY)]
    foreign = any(each.wallet_status.foreign for each in found)
    return Plan(
        [*_paused_facts(found)],
        notes or ["No wallet has paid anything there yet."],
        needs_approval=foreign and container.approvals.required,
    )


def _paused_facts(found: Sequence[RepairResult]) -> Iterator[tuple[str, str]]:
    """Yield which pauses end, and each transaction that is accepted with them."""
    for each in found:
        wallet = each.wallet_status.wallet
        if wallet.is_paused:
            yield "resume the wallet", f"{wallet.sender}, paused: {wallet.pause_reason}"
        for foreign in each.wallet_status.foreign:
            yield f"accept nonce {foreign.nonce}", foreign.tx_hash


def _repair(container: Container, values: Values, actor: Actor) -> Answer:
    from api.views.administration import repair_lines
    from api.views.explanations import RepairedWalletsDocument

    network = values["network"]
    if values.get("dry_run"):
        repairs = _compare(container, network)
    else:
        repairs = container.nonce_admin.repair(network, actor)
    paused = [each for each in repairs if each.is_open]
    problem = next((each.code for each in paused if each.code is not None), None)
    lines = [line for each in repairs for line in repair_lines(each, _NEXT)]
    needs_approval = problem == "approval-required"
    return Answer(
        RepairedWalletsDocument.of(None, wallets=repairs).dump()["wallets"],
        lines or ["no wallet has paid anything yet"],
        ok=not paused,
        problem=problem,
        next_step=("Approvals", "/console/approvals") if needs_approval else None,
    )


def _wallet(facts: Mapping[str, Any]) -> str:
    return f"the wallet {facts['address']} on {facts['network']}"


def _transactions(facts: Mapping[str, Any]) -> str:
    accepted = [
        f"{each['tx_hash']} (nonce {each['nonce']})" for each in facts["accepted"]
    ]
    return ", ".join(accepted) or "no foreign transaction"


REPAIR = Action(
    name="repair-nonces",
    title="Repair wallets",
    about="""
    Compare each wallet with its chain, and resume paused wallets.

    Transactions that the ledger lacks are recorded, foreign transactions are accepted,
    and the wallet assigns nonces again. A stop of signing is reported, and stays.

    A foreign transaction was signed with your key, but not by this service: find out
    who sent it before you accept it, and rotate the key if you cannot.
    """,
    more_help="""
    With --dry-run, wallets are only compared. Exits with 1 while a wallet is paused.
    """,
    scope=_SCOPE,
    audit=AuditAction.NONCE_REPAIR,
    path="/v1/admin/wallets/repair",
    operation="repairWallets",
    command="nonce repair",
    page=_PAGE,
    fields=(_NETWORK,),
    plan=_plan_repair,
    make=_repair,
    has_dry_run=True,
    proposed=Proposed(
        AuditAction.FOREIGN_TRANSACTION_ACCEPT,
        lambda facts: f"resume {_wallet(facts)}, and accept {_transactions(facts)}",
        lambda facts, _: {"network": facts["network"]},
    ),
    needs_token=lambda _: True,
    answers={200: "The wallets, and why some are still paused."},
    document="api.views.explanations:RepairedWalletsDocument",
    collection="wallets",
    body="WalletRepair",
    problems=frozenset({"not-found", "chain-unavailable"}),
)


def _plan_abandon(container: Container, values: Values) -> Plan:
    address, network = values["address"], values["network"]
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
        facts, needs_approval=any(waiting.values()) and container.approvals.required
    )


def _abandon(container: Container, values: Values, actor: Actor) -> Answer:
    admin, address = container.nonce_admin, values["address"]
    if values.get("dry_run"):
        changed, done = admin.waiting(address, values["network"]), "would-abandon"
    else:
        changed, done = admin.abandon(address, values["network"], actor), "abandoned"
    statuses = {
        name: done if is_new else "not-waiting" for name, is_new in changed.items()
    }
    return Answer(
        [{"network": name, "status": status} for name, status in statuses.items()],
        [f"{name}: {status}" for name, status in statuses.items()],
    )


ABANDON = Action(
    name="abandon-nonces",
    title="Stop waiting for a revoked key",
    about="""
    Stop waiting for pending transactions of a blocked key's address.

    Refunds wait while such a transaction may be one of our payments that a ledger
    restored from a backup has forgotten. An attacker who has the key can keep one
    pending without end. Abandon only transactions that are not ours: a payment that the
    ledger has forgotten would be paid twice.
    """,
    scope=_SCOPE,
    audit=AuditAction.NONCE_ABANDON,
    path="/v1/admin/wallets/{address}/abandon",
    operation="abandonNonces",
    command="nonce abandon",
    page=_PAGE,
    fields=(_ADDRESS, _NETWORK),
    plan=_plan_abandon,
    make=_abandon,
    has_dry_run=True,
    proposed=Proposed(
        AuditAction.NONCE_ABANDON,
        lambda facts: (
            f"stop waiting for pending transactions of {_wallet(facts)}, and accept"
            f" {_transactions(facts)}"
        ),
        lambda facts, _: {"network": facts["network"], "address": facts["address"]},
    ),
    needs_token=lambda _: True,
    is_danger=True,
    answers={200: "Where the service stopped waiting."},
    document="api.views.administration:AbandonedNoncesDocument",
    collection="networks",
    body="NonceAbandonment",
    problems=frozenset({"not-found", "conflict", "chain-unavailable", "wallet-paused"}),
)
