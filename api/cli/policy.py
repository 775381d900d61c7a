"""``hotwallet policy``: show, test and explain what may be signed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from api.cli.output import Result, prints, reports
from signer.errors import NotFoundError


if TYPE_CHECKING:
    from api.container import Container
    from signer.model.decision import Decision
    from signer.model.refund import Refund
    from signer.policy.examples import ExampleOutcome
    from signer.policy.policy import AnyPolicy
    from signer.refunds.payment_policy import Reviewed


_ACCOUNT = click.option(
    "--account", is_flag=True, help="The default of HSMAccount, not the service's."
)


@click.group()
def policy() -> None:
    """
    Show, test and explain what may be signed.

    The policy is made from NETWORKS_FILE and TENANTS_FILE, and the own rules in
    POLICY_DIR.
    """


@policy.command()
@_ACCOUNT
@prints
def show(account: bool) -> Result:
    """Print all rules that are in force, and their hash."""
    from api.bootstrap import build_container

    chosen = _policy(build_container(), account=account)
    files = [{"name": file.name, "text": file.text} for file in chosen.files]
    lines = [f"// The hash of this policy is {chosen.hash}."]
    for file in chosen.files:
        lines += ["", f"// ---- {file.name} ----", "", file.text.rstrip()]
    return Result({"hash": chosen.hash, "files": files}, lines)


@policy.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_ACCOUNT
@prints
def test(file: Path, account: bool) -> Result:
    """
    Compare the policy with the examples in FILE, which is TOML or JSON.

    Exits with 1 if a verdict or a rule differs.  The fields of an example are in
    docs/how-to/policy.md.

    Example: hotwallet policy test policy/examples.toml
    """
    from api.bootstrap import build_container
    from signer.policy.examples import read_examples, run_examples

    container = build_container()
    examples = read_examples(
        file.read_text(encoding="utf-8"), is_json=file.suffix == ".json"
    )
    policy = _policy(container, account=account)
    found = run_examples(policy, examples, container.networks, container.tenants)
    outcomes = list(found)
    wrong = [each for each in outcomes if not each.is_expected]
    document = {
        "ok": not wrong,
        "examples": [_example_document(each) for each in outcomes],
    }
    lines = [
        *map(_example_line, wrong),
        f"{len(outcomes) - len(wrong)} of {len(outcomes)} as expected",
    ]
    return Result(document, lines, not wrong)


@policy.command()
@click.argument("refund_id")
@reports
def explain(container: Container, refund_id: str) -> Result:
    """
    Print which rules decide about each transaction of REFUND_ID.

    It asks today's policy about the bytes that were signed, at the time of the
    signature.  If nothing was signed yet, it asks about the transaction that would pay
    the refund now, and prints how many people must approve it.  For any other
    transaction, write it into a file for `hotwallet policy test`.
    """
    from signer.refunds.payment_policy import PolicyReview

    refund = container.store.get(refund_id)
    if refund is None:
        raise NotFoundError("there is no such refund")
    review = PolicyReview(container.store, container.policy, container.networks)
    found = list(review.review(refund))
    lines = [f"{refund.id}: {len(found)} signed, policy {container.policy.short_hash}"]
    expected = None if found else _decide_now(container, refund)
    if expected is not None:
        lines.append(f"  not signed, {refund.status}: {_describe(expected)}")
    return Result(
        {
            "policy": container.policy.hash,
            "transactions": [_reviewed_document(each) for each in found],
            "expected": None if expected is None else _decision_document(expected),
        },
        [*lines, *map(_reviewed_line, found)],
    )


@policy.command()
@click.argument(
    "directory",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
)
@click.option(
    "--last",
    type=click.IntRange(1, 100_000),
    default=1000,
    show_default=True,
    help="How many signed transactions, those of the newest refunds.",
)
@reports
def diff(container: Container, directory: Path, last: int) -> Result:
    """
    Print which signed transactions a policy with the own rules in DIR would refuse.

    Approvals that were given count.  Exits with 1 if there is one.  Rules about totals
    and first payments cannot be compared: what was spent at that time is not stored.

    Example: hotwallet policy diff new-policy --last 5000
    """
    from signer.config.policy_files import read_policy_files
    from signer.refunds.payment_policy import PolicyReview

    planned = container.compile_policy(read_policy_files(directory))
    review = PolicyReview(container.store, planned, container.networks)
    found = list(review.review_last(last))
    refused = [each for each in found if _is_refused(container, each)]
    document = {
        "policy": planned.hash,
        "current": container.policy.hash,
        "compared": len(found),
        "refused": [_reviewed_document(each) for each in refused],
    }
    lines = [*map(_reviewed_line, refused)]
    lines.append(f"{len(refused)} of {len(found)} would be refused")
    return Result(document, lines, not refused)


def _is_refused(container: Container, reviewed: Reviewed) -> bool:
    from signer.model.decision import Verdict
    from signer.refunds.payment_approvals import is_approved

    decision = reviewed.decision
    if decision.need is None:
        return decision.verdict is not Verdict.ALLOW
    return not is_approved(container.store, reviewed.refund, decision.need)


def _decide_now(container: Container, refund: Refund) -> Decision | None:
    from signer.model.refund import UNSIGNED
    from signer.refunds.payment_approvals import decide

    network = container.networks.get(refund.network)
    if (
        network is None
        or refund.bound_sender is not None
        or refund.status not in UNSIGNED
    ):
        return None
    return decide(container.payment_policy, refund, network)


def _policy(container: Container, *, account: bool) -> AnyPolicy:
    from signer.policy.default_rules import ACCOUNT
    from signer.policy.policy import Policy
    from signer.policy.rules import PolicyFile

    if not account:
        return container.policy
    own = [PolicyFile(name, text) for name, text in container.policy_files.items()]
    return Policy.compile(ACCOUNT, own)


def _decision_document(decision: Decision) -> dict[str, Any]:
    need = decision.need
    return {
        "verdict": decision.verdict,
        "rules": list(decision.rules),
        "approvals": 0 if need is None else need.count,
        "approvers": [] if need is None else sorted(need.groups),
    }


def _example_document(outcome: ExampleOutcome) -> dict[str, Any]:
    return {
        "name": outcome.example.name,
        "path": outcome.path,
        "expected": {"verdict": outcome.example.verdict, "rule": outcome.example.rule},
        **_decision_document(outcome.decision),
        "ok": outcome.is_expected,
    }


def _example_line(outcome: ExampleOutcome) -> str:
    example, decision = outcome.example, outcome.decision
    rule = "" if example.rule is None else f" ({example.rule})"
    return (
        f"{example.name}, {outcome.path}: expected {example.verdict}{rule}, found"
        f" {_describe(decision)}"
    )


def _reviewed_document(reviewed: Reviewed) -> dict[str, Any]:
    return {
        "refundId": reviewed.refund.id,
        "txHash": reviewed.transaction.tx_hash,
        "kind": reviewed.transaction.kind,
        **_decision_document(reviewed.decision),
    }


def _reviewed_line(reviewed: Reviewed) -> str:
    transaction = reviewed.transaction
    return (
        f"  {reviewed.refund.id}  {transaction.tx_hash}  {transaction.kind}:"
        f" {_describe(reviewed.decision)}"
    )


def _describe(decision: Decision) -> str:
    rules = ", ".join(decision.rules)
    if decision.need is None:
        return f"{decision.verdict} ({rules})"
    groups = ", ".join(sorted(decision.need.groups))
    of_groups = f" of {groups}" if groups else ""
    return f"{decision.verdict} ({rules}; approvals: {decision.need.count}{of_groups})"
