"""
The pytest plugin ``hotwallet``: accounts whose keys are in a throw-away SoftHSM token.

pytest loads it at each start, in every project that has hotwallet installed.  So it
imports nothing else of hotwallet before a test uses a fixture.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest


if TYPE_CHECKING:
    from signer.account import HSMAccount
    from softhsm.account import ThrowAwayToken


@pytest.fixture(scope="session")
def hsm_token(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[ThrowAwayToken]":
    """
    Return a SoftHSM token that the test session owns, as ``ThrowAwayToken``.

    Tests that use it fail if SoftHSM or python-pkcs11 is not installed; the message
    names what to install.
    """
    try:
        from signer.errors import HotWalletError  # noqa: PLC0415  See above.
        from softhsm.account import make_token  # noqa: PLC0415
    except ModuleNotFoundError as e:
        pytest.fail(
            f"{e.name} is not installed; run: pip install 'hotwallet[testing]'",
            pytrace=False,
        )
    with ExitStack() as stack:
        try:
            folder = tmp_path_factory.mktemp("hsm")
            token = stack.enter_context(make_token(folder))
        except HotWalletError as e:
            pytest.fail(f"there is no HSM for the tests: {e}", pytrace=False)
        yield token


@pytest.fixture
def hsm_account(hsm_token: "ThrowAwayToken") -> "HSMAccount":
    """Return an account with a new key in the throw-away token."""
    return hsm_token.new_account()
