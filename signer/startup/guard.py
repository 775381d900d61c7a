"""
The start-up guard: refuse to run unsafe, and say how to mend it.

It runs before the first route exists.  Each refusal has a code that machines may
rely on; ``docs/guard.md`` has the cure for each.  Every problem is named at once,
so that nobody has to start five times to find five of them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from signer.chain.erc20 import DECIMALS
from signer.config.networks import Network, Token
from signer.config.settings import RAW_KEY, Settings
from signer.errors import (
    ChainError,
    ConfigurationError,
    ExecutionRevertedError,
    KeyNotFoundError,
    Refusal,
    SigningError,
    StoreError,
)
from signer.keys.signer import Signer
from signer.ports import Call, ChainClient, Journal
from signer.startup.listen_address import exposure_refusals


EXIT_STATUS = 78
"""EX_CONFIG of sysexits.h: restarting will not help."""

NOT_SAFE = "the key is in a SoftHSM token or a local emulator: NOT SAFE FOR PRODUCTION"

# What ``backends/sql/urls.py`` takes for PostgreSQL; it refuses the rest of these.
_MANY_NODES_SHARE = ("postgresql:", "postgresql+", "postgres:")

_IMPORT = "hotwallet softhsm import --file KEY_FILE"


def check_settings(
    settings: Settings, networks: Mapping[str, Network], *, serving: bool = True
) -> list[str]:
    """
    Judge the configuration; return warnings.

    *serving* says whether requests will be answered, so that it matters from whom.

    Raises:
        ConfigurationError: With every refusal that applies.
    """
    refusals = list(_kms_refusals(settings))
    if settings.is_production:
        refusals += _production_refusals(settings, networks)
        refusals += exposure_refusals(settings) if serving else ()
    if refusals:
        raise ConfigurationError(*refusals)
    return list(_warnings(settings))


def prove_key(
    settings: Settings, open_signer: Callable[[], Signer], *, while_active: bool = False
) -> Signer:
    """
    Return the signer that *open_signer* opens, after a real signature.

    Raises:
        KeyRotatedError: With *while_active*: it is not the ring's active key any more.
        ConfigurationError: ``kms-not-configured`` (``pkcs11-not-configured``) when
            there is no such key, else ``kms-signing-error`` (``pkcs11-...``).
    """
    kind = "kms" if settings.use_kms else "pkcs11"
    cure = (
        "check KMS_KEY_ID, the key's state and the role's permissions"
        if settings.use_kms
        else "run: hotwallet softhsm doctor"
    )
    try:
        signer = open_signer()
        signer.self_test(while_active=while_active)
    except KeyNotFoundError as e:
        refusal = Refusal(f"{kind}-not-configured", f"{e}; {cure}")
    except SigningError as e:
        refusal = Refusal(f"{kind}-signing-error", f"{e} ({e.code}); {cure}")
    else:
        return signer
    raise ConfigurationError(refusal)


def check_chain(name: str, network: Network, client: ChainClient) -> None:
    """
    Make sure that *client* speaks for *network*, and that the tokens live there.

    Raises:
        ConfigurationError: ``chain-misconfigured``, or ``chain-unavailable`` when
            no node answers, since an unknown chain may be the wrong one.
    """
    try:
        found = client.chain_id()
        if found != network.chain_id:
            raise ConfigurationError(
                Refusal(
                    "chain-misconfigured",
                    f"networks.{name}: the node is on chain {found}, "
                    f"not {network.chain_id}",
                )
            )
        refusals = [
            Refusal(
                "chain-misconfigured", f"networks.{name}.tokens.{symbol}: {problem}"
            )
            for symbol, token in network.tokens.items()
            if (problem := _token_problem(token, client))
        ]
    except ChainError as e:
        raise ConfigurationError(
            Refusal("chain-unavailable", f"networks.{name}: {e}; check rpc_urls")
        ) from None
    if refusals:
        raise ConfigurationError(*refusals)


def check_journal(settings: Settings, journal: Journal) -> None:
    """
    Make sure that production cannot change what it has written into *journal*.

    Raises:
        ConfigurationError: ``audit-not-append-only``, or ``database-not-ready`` when
            the database does not say.
    """
    if not settings.is_production:
        return
    try:
        found = journal.excess_privileges()
    except StoreError as e:
        raise ConfigurationError(Refusal("database-not-ready", str(e))) from None
    if found:
        raise ConfigurationError(
            Refusal(
                "audit-not-append-only",
                f"the role of DATABASE_URL {', '.join(found)}; give the service a role"
                " that owns nothing, with the grants of docs/database.md",
            )
        )


def check_audit_key(
    audit_spki: bytes, jwt_spkis: Iterable[bytes], wallet_spki: bytes
) -> None:
    """
    Make sure that the audit's checkpoints have a key of their own.

    Whoever may mint tokens, or pay, must not be able to vouch for what the log says
    of it.  All are public keys: DER ``SubjectPublicKeyInfo`` (RFC 5280).

    Raises:
        ConfigurationError: ``audit-key-shared``.
        ValueError: One is no public key; a programming error.
    """
    audit = _numbers(audit_spki)
    others = (
        ("the wallet's key", [wallet_spki]),
        ("a key that tokens are verified with", jwt_spkis),
    )
    refusals = [
        Refusal(
            "audit-key-shared",
            f"AUDIT_SIGNING_KEY_FILE holds {owner}; make one for the audit alone",
        )
        for owner, spkis in others
        if any(_numbers(spki) == audit for spki in spkis)
    ]
    if refusals:
        raise ConfigurationError(*refusals)


def _numbers(spki: bytes) -> object:
    """Return what a public key is made of, however it was written down."""
    key = load_der_public_key(spki)
    match key:
        case EllipticCurvePublicKey() | RSAPublicKey():
            return key.public_numbers()
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def _token_problem(token: Token, client: ChainClient) -> str | None:
    if not client.has_code(token.address):
        return "no contract has this address"
    try:
        answer = client.call(Call(None, token.address, DECIMALS))
    except ExecutionRevertedError:
        answer = b""
    if answer != token.decimals.to_bytes(32, "big"):
        return f"the contract does not have {token.decimals} decimals"
    return None


def _kms_refusals(settings: Settings) -> Iterator[Refusal]:
    if settings.is_production and not settings.use_kms:
        yield Refusal(
            "kms-not-configured", "production needs USE_KMS=true and KMS_KEY_ID"
        )
    if settings.use_kms and settings.kms_key_id is None:
        yield Refusal("kms-not-configured", "USE_KMS=true needs KMS_KEY_ID")
    if settings.use_kms and settings.aws_region is None:
        yield Refusal("kms-not-configured", "USE_KMS=true needs AWS_REGION")


def _production_refusals(
    settings: Settings, networks: Mapping[str, Network]
) -> Iterator[Refusal]:
    checks = (
        (
            settings.raw_key_present,
            "raw-key-forbidden",
            f"{RAW_KEY} is set; remove it, and destroy the other copies of the key",
        ),
        (
            settings.pkcs11_module is not None,
            "softhsm-module-forbidden",
            "PKCS11_MODULE is set; production signs with AWS KMS only",
        ),
        (
            settings.softhsm2_conf is not None,
            "softhsm-config-forbidden",
            "SOFTHSM2_CONF is set; production signs with AWS KMS only",
        ),
        (
            settings.kms_endpoint is not None or settings.aws_endpoint is not None,
            "kms-endpoint-forbidden",
            "AWS_ENDPOINT_URL_KMS or AWS_ENDPOINT_URL redirects KMS; unset it",
        ),
        (settings.debug, "debug-forbidden", "DEBUG is on; unset it"),
        (
            settings.node_count > 1
            and not settings.effective_database_url.startswith(_MANY_NODES_SHARE),
            "sqlite-multi-node",
            "more than one node needs PostgreSQL; set DATABASE_URL",
        ),
        (
            settings.jwt_algorithm == "HS256" or settings.jwt_secret is not None,
            "jwt-shared-secret",
            "whoever checks HS256 tokens can forge them; use JWT_ALGORITHM=ES256",
        ),
        (
            settings.jwt_signing_key_file is not None,
            "jwt-signing-key-forbidden",
            "JWT_SIGNING_KEY_FILE is for development; this host must not mint tokens",
        ),
        (
            not _is_https(settings.jwt_jwks_url),
            "jwks-insecure",
            "JWT_JWKS_URL must be https, or anybody between may mint tokens",
        ),
        (
            settings.audit_signing_key_file is None,
            "audit-key-missing",
            "without AUDIT_SIGNING_KEY_FILE nobody notices a log that was cut off",
        ),
        (
            settings.alert_webhook_url is not None
            and not _is_https(settings.alert_webhook_url.get_secret_value()),
            "webhook-insecure",
            "ALERT_WEBHOOK_URL must be https",
        ),
    )
    for applies, code, message in checks:
        if applies:
            yield Refusal(code, message)
    for name, network in networks.items():
        if not all(_is_https(url.get_secret_value()) for url in network.rpc_urls):
            yield Refusal("rpc-insecure", f"networks.{name}: rpc_urls must be https")


def _is_https(url: str | None) -> bool:
    """Say so of what is not set as well."""
    return url is None or url.lower().startswith("https://")


def _warnings(settings: Settings) -> Iterator[str]:
    if not settings.use_kms or settings.kms_endpoint or settings.aws_endpoint:
        yield NOT_SAFE
    if settings.raw_key_present:
        yield f"{RAW_KEY} is set and ignored; move the key into the token: {_IMPORT}"
