"""``hotwallet refund explain``, on anvil, and ``refund list``."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from api.views.explanations import ExplanationDocument
from signer.model.refund import Refund
from tests.api.commands import Run
from tests.support.refunds import World


def test_explains(run: Run, world: World, paid: Refund) -> None:
    finished = run("refund", "explain", paid.id)
    as_json = run("refund", "explain", "--json", paid.id)

    assert as_json.json == ExplanationDocument.of(world.explainer.explain(paid)).dump()
    assert (finished.status, as_json.status) == (0, 0)
    lines = finished.out.splitlines()
    assert lines[0] == f"{paid.id}: broadcast"
    assert lines[1] == (
        "  1 of 1 nodes have it in a block, which no worker has recorded yet."
    )
    assert lines[2].startswith("  Next: A worker broadcasts the same bytes again")
    history = lines[lines.index("History:") + 1 : lines.index("Transactions:")]
    assert [line.split()[-1] for line in history] == [
        "queued",
        "reserved",
        "signed",
        "broadcast",
    ]
    assert f"  {paid.tx_hash}  transfer, nonce 0" in finished.out
    assert "  node-1: head " in finished.out
    assert "Not known" not in finished.out


def test_explains_without_nodes(
    run: Run, networks: Callable[..., Path], paid: Refund
) -> None:
    networks(url="http://127.0.0.1:9")
    finished = run("refund", "explain", paid.id)

    assert finished.status == 0
    assert f"{paid.id}: broadcast" in finished.out
    assert f"  {paid.tx_hash}  transfer, nonce 0" in finished.out
    assert "  node-1: chain-unavailable" in finished.out
    assert "Not known: wallet (chain-unavailable)" in finished.out
    assert "127.0.0.1:9" not in finished.out + finished.err


@pytest.mark.parametrize("unknown", ["rf_0", "", "../x"])
def test_an_unknown_refund_is_not_found(run: Run, unknown: str) -> None:
    finished = run("refund", "explain", unknown)

    assert (finished.status, finished.out) == (1, "")
    assert finished.err == "error: not-found: there is no such refund\n"


def test_lists_what_the_options_describe(run: Run, world: World, paid: Refund) -> None:
    """As CSV or JSON lines, without a device or a node."""
    shown = run("refund", "list", "--tenant", paid.tenant)
    lines = run("refund", "list", "--format", "jsonl", "--min-amount", "0.000001").out
    nothing = [
        run("refund", "list", "--format", "jsonl", *options).out
        for options in (
            ("--tenant", "other"),
            ("--status", "confirmed"),
            ("--network", "other"),
            ("--recipient", paid.token_address.lower()),
            ("--to", "2020-01-01"),
            ("--max-amount", "0.000001"),
        )
    ]

    assert shown.out.splitlines()[0].startswith("id,tenant,status,")
    assert shown.out.splitlines()[1].startswith(f"{paid.id},{paid.tenant},broadcast,")
    assert json.loads(lines)["id"] == paid.id
    assert nothing == [""] * 6


@pytest.mark.parametrize(
    "option",
    [
        ("--status", "paid"),
        ("--from", "soon"),
        ("--min-amount", "-1"),
        ("--recipient", "0x1"),
        ("--format", "xml"),
    ],
)
def test_an_option_that_is_malformed_is_named(run: Run, option: Sequence[str]) -> None:
    finished = run("refund", "list", *option)

    assert finished.status in {1, 2}
    assert option[0] in finished.err
