"""The account of the project's own key, for development."""

import os
from collections.abc import Mapping

from backends.pkcs11 import PKCS11Backend
from signer.account import NO_NETWORKS, HSMAccount
from signer.config.networks import Network
from signer.config.settings import Settings
from signer.policy.policy import Policy
from signer.ports.ledger import Ledger
from softhsm import library, pins, provision


def open_account(
    *,
    actor: str = "account",
    ledger: Ledger | None = None,
    policy: Policy | None = None,
    networks: Mapping[str, Network] = NO_NETWORKS,
) -> HSMAccount:
    """
    Return the account of the project's key; the first call creates token and key.

    ::

        account = open_account()
        signed = account.sign_transaction({"to": ..., "chainId": 1, ...})

    The token is in ``HOTWALLET_HOME/softhsm``, by default ``.hotwallet/softhsm``, as
    with ``hotwallet softhsm init``.  The arguments are those of ``HSMAccount.open``.

    Raises:
        ConfigurationError: SoftHSM is not installed (``softhsm-missing``; the message
            has the command that installs it), a variable is invalid
            (``settings-invalid``), or as ``provision.ensure_token``.
        BackendError: The token cannot be opened, or the key does not sign.
    """
    settings = Settings.from_env(os.environ)
    module = library.find_module(settings)
    if module is None:
        raise library.missing_error(library.install_command())
    wallet = provision.init(settings, module)
    return HSMAccount.open(
        PKCS11Backend(module, wallet.token_label, pins.pin_source(settings)),
        wallet.key_id,
        expected_address=wallet.address,
        actor=actor,
        ledger=ledger,
        policy=policy,
        networks=networks,
    )
