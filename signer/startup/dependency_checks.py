"""
The start-up checks of what the process depends on: key, chains, journal, audit key.

The guard (``guard``) runs them after those of the settings.  Each refusal has a stable
code and says what to do (``docs/reference/codes.md``).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from signer.chain.chain import Chain
from signer.chain.erc20 import DECIMALS
from signer.chain.vault import NO_VAULT, VaultRules, find_problems
from signer.config.networks import Network, Token
from signer.config.settings import PKCS11, Role, Settings
from signer.deadline import Deadlines
from signer.errors import (
    ChainError,
    ConfigurationError,
    ExecutionRevertedError,
    KeyNotFoundError,
    KeyNotProtectedError,
    PINRefusedError,
    Refusal,
    SigningError,
    StoreError,
)
from signer.keys.signer import Signer
from signer.model.key import Key, find_active_key
from signer.ports.audit_journal import Journal
from signer.ports.chain import Call, ChainClient


def self_test_key(
    settings: Settings,
    key_setting: str,
    open_signer: Callable[[], Signer],
    *,
    while_active: bool = False,
    seconds: float | None = None,
) -> Signer:
    """
    Return the signer that *open_signer* opens, after a test signature.

    *key_setting* is the variable that names the first key, for the message.  With
    *seconds*, the device has this long to answer instead of its own deadlines.

    Raises:
        KeyRotatedError: With *while_active*: the key is no longer the active one.
        ConfigurationError: ``kms-not-configured`` or ``pkcs11-not-configured`` if there
            is no such key; ``kms-signing-error`` or ``pkcs11-signing-error`` if the key
            does not sign; those of ``KeyNotProtectedError``.
    """
    kind = "kms"
    remedy = (
        f"check {key_setting} and WALLET_ADDRESS, the key's state and the role's"
        " permissions"
    )
    if settings.backend_name == PKCS11:
        kind, remedy = "pkcs11", "run: hotwallet softhsm doctor"

    def test() -> Signer:
        signer = open_signer()
        signer.self_test(while_active=while_active)
        return signer

    try:
        if seconds is None:
            return test()
        return Deadlines().within(seconds, test, name="key")
    except KeyNotProtectedError as e:
        raise ConfigurationError(*e.refusals) from None
    except KeyNotFoundError as e:
        refusal = Refusal(f"{kind}-not-configured", f"{e}; {remedy}")
    except SigningError as e:
        is_pin_refused = isinstance(e, PINRefusedError)
        if is_pin_refused:
            remedy = "each start tries the PIN once"
        refusal = Refusal(
            f"{kind}-signing-error",
            f"{e} ({e.code}); {remedy}",
            is_transient=e.retryable,
            is_pin_refused=is_pin_refused,
        )
    raise ConfigurationError(refusal)


def check_chain(name: str, network: Network, client: ChainClient) -> None:
    """
    Refuse a chain id or a token that differs from *network* (``chain-misconfigured``).

    Refuse also if no node answers (``chain-unavailable``): the chain could be wrong.
    """
    try:
        refusals = [
            Refusal("chain-misconfigured", f"networks.{name}{problem}")
            for problem in _chain_problems(network, client)
        ]
    except ChainError as e:
        raise ConfigurationError(_unavailable(name, e)) from None
    if refusals:
        raise ConfigurationError(*refusals)


def check_vault(
    name: str, chain: Chain, ring: Sequence[Key], *, is_production: bool
) -> None:
    """
    Refuse a vault if its rules do not fit the network *name* and the keys of *ring*.

    Refuse also if no node answers (``chain-unavailable``).
    """
    network = chain.network
    if network.vault is None:
        return
    rules = VaultRules(chain.client, network.vault)
    active = find_active_key(ring)
    payers = [] if active is None else [active.address]
    try:
        refusals = [NO_VAULT]
        if rules.is_vault():
            facts = rules.read(network, payers)
            refusals = [
                *find_problems(name, network, facts, ring, is_production=is_production)
            ]
    except ChainError as e:
        raise ConfigurationError(_unavailable(name, e)) from None
    if refusals:
        where = f"networks.{name}.vault"
        raise ConfigurationError(
            *(Refusal(each.code, f"{where}: {each.message}") for each in refusals)
        )


def _unavailable(name: str, error: ChainError) -> Refusal:
    return Refusal(
        "chain-unavailable",
        f"networks.{name}: {error}; check rpc_urls",
        is_transient=error.retryable,
    )


def check_journal(
    settings: Settings, journal: Journal, *, serving: bool = True
) -> None:
    """
    Refuse a *journal* in which a production process may write more than it needs.

    A worker, which is not *serving*, may share its database role with the API.  The
    code is ``audit-not-append-only``, or ``database-not-ready`` if the database
    does not answer.
    """
    if not settings.is_production:
        return
    try:
        role = settings.serve_role if serving else Role.ALL
        found = journal.excess_privileges(role)
    except StoreError as e:
        raise ConfigurationError(
            Refusal("database-not-ready", str(e), is_transient=e.retryable)
        ) from None
    if found:
        raise ConfigurationError(
            Refusal(
                "audit-not-append-only",
                f"the role of DATABASE_URL {', '.join(found)}; give the process the"
                " database role with its grants: docker/grants.sql",
            )
        )


def check_audit_key(
    audit_spki: bytes, jwt_spkis: Iterable[bytes], wallet_spki: bytes | None
) -> None:
    """
    Refuse (``audit-key-shared``) a key that does not only sign audit checkpoints.

    An issuer of tokens, or the wallet itself, must not be able to sign the audit log of
    its own actions.  All arguments are DER ``SubjectPublicKeyInfo`` (RFC 5280);
    *wallet_spki* is None if the device does not show the wallet's at the moment.
    """
    audit_numbers = _numbers(audit_spki)
    others = (
        ("the wallet's key", [] if wallet_spki is None else [wallet_spki]),
        ("a key that verifies tokens", jwt_spkis),
    )
    refusals = [
        Refusal(
            "audit-key-shared",
            f"AUDIT_SIGNING_KEY_FILE holds {owner}; create a key for the audit alone",
        )
        for owner, spkis in others
        if any(_numbers(spki) == audit_numbers for spki in spkis)
    ]
    if refusals:
        raise ConfigurationError(*refusals)


def _numbers(spki: bytes) -> object:
    """Return the numbers of a public key, which do not depend on its encoding."""
    key = load_der_public_key(spki)
    if isinstance(key, EllipticCurvePublicKey | RSAPublicKey):
        return key.public_numbers()
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def _chain_problems(network: Network, client: ChainClient) -> Iterator[str]:
    found = client.chain_id()
    if found != network.chain_id:
        yield (
            f": the node is on chain {found}, not {network.chain_id}; correct chain_id"
            " or rpc_urls"
        )
        return
    for symbol, token in network.tokens.items():
        if not client.code(token.address):
            yield f".tokens.{symbol}: there is no contract at this address"
        elif not _has_decimals(token, client):
            yield f".tokens.{symbol}: the contract's decimals() is not {token.decimals}"


def _has_decimals(token: Token, client: ChainClient) -> bool:
    try:
        answer = client.call(Call(None, token.address, DECIMALS))
    except ExecutionRevertedError:
        return False
    return answer == token.decimals.to_bytes(32, "big")
