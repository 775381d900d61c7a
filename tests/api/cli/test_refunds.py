"""``hotwallet refund explain``, on anvil."""

from collections.abc import Callable
from pathlib import Path

import pytest

from api.views.explanations import explanation_document
from signer.model.refund import Refund
from tests.api.commands import Run
from tests.support.refunds import World


def test_explains_as_text(run: Run, world: World, paid: Refund) -> None:
    """Status, reason, next step, history, transactions and nodes are printed."""
    told = run("refund", "explain", paid.id)

    assert told.status == 0
    lines = told.out.splitlines()
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
    assert f"  {paid.tx_hash}  transfer, nonce 0" in told.out
    assert "  node-1: head " in told.out
    assert "Not known" not in told.out


def test_explains_as_json(run: Run, world: World, paid: Refund) -> None:
    """--json prints the API's document, and nothing else."""
    told = run("refund", "explain", "--json", paid.id)
    expected = explanation_document(world.explainer.explain(paid))

    assert told.status == 0
    assert told.json == expected


def test_explains_without_nodes(
    run: Run, networks: Callable[..., Path], paid: Refund
) -> None:
    """While no node answers, the ledger's part is printed, and what is unknown."""
    networks(url="http://127.0.0.1:9")
    told = run("refund", "explain", paid.id)

    assert told.status == 0
    assert f"{paid.id}: broadcast" in told.out
    assert f"  {paid.tx_hash}  transfer, nonce 0" in told.out
    assert "  node-1: chain-unavailable" in told.out
    assert "Not known: wallet (chain-unavailable)" in told.out
    assert "127.0.0.1:9" not in told.out + told.err


@pytest.mark.parametrize("unknown", ["rf_0", "", "../x"])
def test_an_unknown_refund(run: Run, unknown: str) -> None:
    """An unknown refund is an error in one line, with status 1."""
    told = run("refund", "explain", unknown)

    assert (told.status, told.out) == (1, "")
    assert told.err == "error: not-found: there is no such refund\n"
