"""``hotwallet refund explain``, on anvil."""

from collections.abc import Callable
from pathlib import Path

import pytest

from api.views.explanations import explanation_document
from signer.model.refund import Refund
from tests.api.commands import Run
from tests.support.refunds import World


def test_explains_as_text(run: Run, world: World, paid: Refund) -> None:
    finished = run("refund", "explain", paid.id)

    assert finished.status == 0
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


def test_explains_as_json(run: Run, world: World, paid: Refund) -> None:
    finished = run("refund", "explain", "--json", paid.id)
    expected = explanation_document(world.explainer.explain(paid))

    assert finished.status == 0
    assert finished.json == expected


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
