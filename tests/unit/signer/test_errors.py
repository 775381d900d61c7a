"""Errors carry what an answer needs, and messages of this project only."""

from signer.errors import ResultTooLargeError, RevertedCallError


def test_a_reverted_call_has_what_the_contract_returned() -> None:
    """A client decodes it; without data the contract gave no reason."""
    with_reason = RevertedCallError("execution reverted: no", data=b"\x08\xc3")

    assert (str(with_reason), with_reason.data) == (
        "execution reverted: no",
        b"\x08\xc3",
    )
    assert RevertedCallError("execution reverted").data is None
    assert with_reason.code == "execution-reverted"


def test_a_result_that_is_too_large_is_the_clients_mistake() -> None:
    """It asked for it, and may ask for less."""
    error = ResultTooLargeError()

    assert (error.code, error.field) == ("invalid-input", "params")
    assert "ask for less" in str(error)
