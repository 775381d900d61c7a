"""The account of the project's own key, for development."""

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from backends.pkcs11 import PKCS11Backend
from signer.account import NO_NETWORKS, HSMAccount
from signer.config.networks import Network
from signer.config.settings import Settings
from signer.policy.policy import Policy
from signer.ports.key_backend import KeyId
from signer.ports.ledger import Ledger
from softhsm import library, provision
from softhsm.layout import CONF_VARIABLE, Layout, pin_source


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
        PKCS11Backend(module, wallet.token_label, pin_source(settings)),
        wallet.key_id,
        expected_address=wallet.address,
        actor=actor,
        ledger=ledger,
        policy=policy,
        networks=networks,
    )


_LABEL = "hotwallet-throw-away"


@dataclass(frozen=True, slots=True)
class ThrowAwayToken:
    """A token of SoftHSM's *module*, which ``backend`` opens at its first call."""

    module: Path
    label: str
    conf: Path
    pin_file: Path
    backend: PKCS11Backend = field(repr=False)

    def new_key(self) -> KeyId:
        """Return the id of a new key, ``CKA_ID`` in hex."""
        return self.backend.generate(f"throw-away {secrets.token_hex(8)}")

    def new_account(
        self,
        *,
        actor: str = "account",
        ledger: Ledger | None = None,
        policy: Policy | None = None,
        networks: Mapping[str, Network] = NO_NETWORKS,
    ) -> HSMAccount:
        """Return the account of a new key; the arguments are ``HSMAccount.open``'s."""
        return HSMAccount.open(
            self.backend,
            self.new_key(),
            actor=actor,
            ledger=ledger,
            policy=policy,
            networks=networks,
        )

    def environment(self, key_id: str) -> dict[str, str]:
        """Return the variables with which another process signs with *key_id*."""
        return {
            CONF_VARIABLE: str(self.conf),
            "PKCS11_MODULE": str(self.module),
            "PKCS11_TOKEN_LABEL": self.label,
            "PKCS11_PIN_FILE": str(self.pin_file),
            "PKCS11_KEY_ID": key_id,
        }


@contextmanager
def make_token(
    folder: Path, places: Sequence[str] = library.PLACES
) -> Iterator[ThrowAwayToken]:
    """
    Make a token in *folder*, and point this process to it until the end.

    A process has one SoftHSM configuration (``SOFTHSM2_CONF``) at a time, so other
    tokens cannot be opened meanwhile.  Of the environment only ``PKCS11_MODULE`` is
    used, which may name the module of a SoftHSM that is in none of *places*.

    Raises:
        ConfigurationError: SoftHSM is not installed (``softhsm-missing``; the message
            has the command that installs it), or ``PKCS11_MODULE`` is another module
            (``softhsm-other-module``).
        BackendError: The module does not load.
    """
    layout = Layout.of(folder)
    settings = Settings.from_env(
        {
            "HOTWALLET_HOME": str(folder),
            "PKCS11_MODULE": os.environ.get("PKCS11_MODULE", ""),
            "PKCS11_TOKEN_LABEL": _LABEL,
        }
    )
    module = library.find_module(settings, places)
    if module is None:
        raise library.missing_error(library.install_command())
    before = os.environ.get(CONF_VARIABLE)
    os.environ[CONF_VARIABLE] = str(layout.conf)
    try:
        with layout.locked():
            backend = provision.ensure_token(settings, module)
        yield ThrowAwayToken(module, _LABEL, layout.conf, layout.pin, backend)
    finally:
        if before is None:
            del os.environ[CONF_VARIABLE]
        else:
            os.environ[CONF_VARIABLE] = before
