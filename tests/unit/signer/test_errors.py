"""Errors carry what an answer needs, and messages of this project only."""

from signer.errors import RevertedCallError


def test_a_reverted_call_has_what_the_contract_returned() -> None:
    """A client decodes it; without data the contract gave no reason."""
    with_reason = RevertedCallError("execution reverted: no", data=b"\x08\xc3")

    assert (str(with_reason), with_reason.data) == (
        "execution reverted: no",
        b"\x08\xc3",
    )
    assert RevertedCallError("execution reverted").data is None
    assert with_reason.code == "execution-reverted"
