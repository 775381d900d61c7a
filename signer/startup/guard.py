"""
The start-up guard: refuses to run with unsafe settings.

A service that listens beyond its own host needs a proxy in front: a few slow clients,
which a proxy can buffer, would take all of its threads (``docs/how-to/deploy.md``).

It runs before the first route exists, and ``dependency_checks`` after it.  Each refusal
has a stable code and says what to do; ``docs/reference/codes.md`` explains each of
them.  All refusals are reported together, so that one start shows every problem.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_network
from urllib.parse import parse_qs, urlsplit

from signer.addresses import is_loopback_address
from signer.config.allowed_keys import names_account
from signer.config.networks import Network
from signer.config.settings import AWS_KMS, PKCS11, RAW_KEY, Role, Settings, is_https
from signer.errors import ConfigurationError, Refusal


# The widest networks that one organisation may use: 10.0.0.0/8, fc00::/7.
_SHORTEST_PREFIX = 7

# The formats that gunicorn accepts.  ``fd://3`` is missing: it may listen anywhere.
_UNIX = re.compile(r"unix:")
_HOST = re.compile(r"(?:tcp://)?(?:\[(?P<six>[^\]]*)\]|(?P<host>[^:\[\]]*))(?::\d+)?")


def exposure_refusals(settings: Settings) -> Iterator[Refusal]:
    """Yield the reasons why the service is not safe to reach as configured."""
    if not stays_on_host(settings.bind) and not settings.trusted_proxies:
        yield Refusal(
            "proxy-missing",
            "BIND listens beyond this host; put a proxy in front, and set"
            " TRUSTED_PROXIES to its address",
        )
    if trusts_public_networks(settings.trusted_proxies):
        yield Refusal(
            "proxy-anybody",
            "TRUSTED_PROXIES is too wide; set it to the proxies' own addresses",
        )


def stays_on_host(bind: str) -> bool:
    """
    Return whether only processes on this host can connect to *bind*.

    >>> [stays_on_host(bind) for bind in ("127.0.0.1:80", "[::1]:80", "unix:/run/s")]
    [True, True, True]
    >>> [stays_on_host(bind) for bind in ("0.0.0.0:80", ":80", "db.internal:80")]
    [False, False, False]
    """
    if _UNIX.match(bind):
        return True
    match = _HOST.fullmatch(bind)
    host = (match["six"] or match["host"] or "") if match else ""
    # Another name may resolve to any address; no host means all of them.
    return host.lower() == "localhost" or is_loopback_address(host)


def trusts_public_networks(networks: Iterable[str]) -> bool:
    """Return whether *networks* include hosts that could forge a client's address."""
    return any(ip_network(network).prefixlen < _SHORTEST_PREFIX for network in networks)


EXIT_STATUS = 78
"""EX_CONFIG of sysexits.h: the configuration, or what it depends on, is refused."""

NOT_SAFE = "the key is in a SoftHSM token or a local emulator: NOT SAFE FOR PRODUCTION"

# ``backends/sql/urls.py`` treats these as PostgreSQL; it refuses unknown drivers.
_POSTGRESQL_URLS = ("postgresql:", "postgresql+", "postgres:")

_IMPORT = "hotwallet softhsm import --file KEY_FILE"


def check_settings(
    settings: Settings,
    networks: Mapping[str, Network],
    *,
    serving: bool = True,
    alone: bool = True,
) -> list[str]:
    """
    Check the configuration and return warnings.

    Only processes that answer requests (*serving*) are checked for who can reach them.
    A process that is not *alone* shares the ledger with those of other roles.
    """
    may_sign = settings.serve_role.has_key or not serving
    refusals = list(_kms_refusals(settings) if may_sign else _role_refusals(settings))
    if settings.require_approvals == "keys" and settings.approvers_file is None:
        refusals.append(
            Refusal(
                "approvers-missing",
                "REQUIRE_APPROVALS=keys needs APPROVERS_FILE; set it, or else tokens"
                " alone would approve",
            )
        )
    if settings.is_production:
        seals = settings.serve_role.seals_audit or not serving
        refusals += _production_refusals(
            settings, networks, seals_audit=seals, alone=alone
        )
        refusals += exposure_refusals(settings) if serving else ()
    if refusals:
        raise ConfigurationError(*refusals)
    return list(_warnings(settings)) if may_sign else []


def _role_refusals(settings: Settings) -> Iterator[Refusal]:
    """Yield why a process that must not be able to sign could."""
    found = [*settings.credentials]
    if settings.has_pin_source:
        found.append("pin-source of PKCS11_TOKEN_LABEL")
    if found:
        yield Refusal(
            "role-has-credentials",
            f"a process that serves refunds only must not be able to sign: unset"
            f" {', '.join(found)}",
        )


def _kms_refusals(settings: Settings) -> Iterator[Refusal]:
    """Yield why the key cannot be used; other backends' plugins check theirs."""
    if settings.is_production and settings.backend_name == PKCS11:
        yield from _hsm_refusals(settings)
    if settings.backend_name != AWS_KMS:
        return
    if settings.kms_key_id is None:
        yield Refusal("kms-not-configured", "set KMS_KEY_ID to the key's ARN")
    if settings.aws_region is None:
        yield Refusal("kms-not-configured", "set AWS_REGION to the key's region")
    if settings.kms_key_id is not None:
        yield from _key_list_refusals(settings, settings.kms_key_id)


def _hsm_refusals(settings: Settings) -> Iterator[Refusal]:
    """
    Yield why production must not sign through PKCS#11 as configured.

    The backend asks the device the rest: ``backends/pkcs11/proof.py``.
    """
    if settings.key_backend is None:
        yield Refusal(
            "kms-not-configured",
            "production signs with a KMS: set KEY_BACKEND, for example aws-kms",
        )
        return
    if settings.pkcs11_module is None:
        yield Refusal(
            "softhsm-module-forbidden",
            "set PKCS11_MODULE to the module of your HSM; without it, SoftHSM signs",
        )
    has_file = settings.pkcs11_pin_file is not None or settings.has_pin_source
    if settings.pkcs11_pin is not None or not has_file:
        yield Refusal(
            "pkcs11-pin-exposed",
            "set PKCS11_PIN_FILE to a file that only the service can read, and unset"
            " PKCS11_PIN",
        )
    if settings.wallet_address is None:
        yield Refusal(
            "wallet-address-missing",
            "set WALLET_ADDRESS to the key's address; without it, any key of the"
            " device with this CKA_ID would sign",
        )


def _key_list_refusals(settings: Settings, key_name: str) -> Iterator[Refusal]:
    if not settings.allowed_keys.may_contain(key_name):
        yield Refusal(
            "kms-key-not-allowed",
            "KMS_KEY_ID is not one of KMS_ALLOWED_KEYS; add its ARN there",
        )
    is_limited = bool(settings.kms_allowed_keys) or names_account(key_name)
    if settings.is_production and not is_limited:
        yield Refusal(
            "kms-key-not-allowed",
            "KMS_KEY_ID is not arn:aws:kms:REGION:ACCOUNT:key/ID, so that keys of every"
            " account would be allowed; set it to that ARN, or set KMS_ALLOWED_KEYS",
        )


def _production_refusals(
    settings: Settings,
    networks: Mapping[str, Network],
    *,
    seals_audit: bool,
    alone: bool,
) -> Iterator[Refusal]:
    checks = (
        (
            settings.raw_key_present,
            "raw-key-forbidden",
            f"{RAW_KEY} is set; unset it, and move the funds: the key was exposed",
        ),
        (
            settings.pkcs11_module is not None and settings.key_backend != PKCS11,
            "softhsm-module-forbidden",
            "PKCS11_MODULE is set, but KEY_BACKEND is not pkcs11; unset it",
        ),
        (
            bool(settings.emulators),
            "kms-endpoint-forbidden",
            f"{', '.join(settings.emulators)} redirects KMS; unset it",
        ),
        (
            _lacks_postgresql(settings, alone=alone),
            "sqlite-multi-node",
            "several processes or nodes need PostgreSQL; set DATABASE_URL",
        ),
        (
            not _is_protected_database(settings),
            "database-insecure",
            "DATABASE_URL needs sslmode=verify-full, or a Unix socket's folder as host",
        ),
        (
            seals_audit and settings.audit_signing_key_file is None,
            "audit-key-missing",
            "set AUDIT_SIGNING_KEY_FILE; without it, a truncated log looks complete",
        ),
    )
    for applies, code, message in checks:
        if applies:
            yield Refusal(code, message)
    yield from dict.fromkeys(settings.production_refusals())
    for name, network in networks.items():
        if not all(is_https(url.get_secret_value()) for url in network.rpc_urls):
            yield Refusal("rpc-insecure", f"networks.{name}: rpc_urls must be https")


def _lacks_postgresql(settings: Settings, *, alone: bool) -> bool:
    is_alone = alone and settings.node_count == 1 and settings.serve_role is Role.ALL
    return not (
        is_alone or settings.effective_database_url.startswith(_POSTGRESQL_URLS)
    )


def _is_protected_database(settings: Settings) -> bool:
    """
    Whether nothing on the network can read or change what is sent to the database.

    That is a file, a Unix socket, or TLS with the server's name verified (libpq's
    ``sslmode``).  ``hostaddr`` and ``service``, and libpq's variables for them, may
    lead to another place than the host.
    """
    url = settings.effective_database_url
    if not url.startswith(_POSTGRESQL_URLS):
        return True
    if "#" in url or "@" in url.partition("?")[2]:
        return False  # Such a password must be percent-encoded: parsers differ.
    try:
        parts = urlsplit(url)
        parameters = parse_qs(parts.query, strict_parsing=bool(parts.query))
    except ValueError:
        return False
    if parameters.get("sslmode") == ["verify-full"]:
        return True
    hosts = [host for each in parameters.get("host", []) for host in each.split(",")]
    is_socket = bool(hosts) and all(host.startswith("/") for host in hosts)
    redirects = {"hostaddr", "service"} & parameters.keys()
    redirected = redirects or settings.pg_hostaddr or settings.pg_service
    return is_socket and not (parts.hostname or redirected)


def _warnings(settings: Settings) -> Iterator[str]:
    is_emulated = bool(settings.kms_endpoint or settings.aws_endpoint)
    is_unproven = settings.backend_name == PKCS11 and not settings.is_production
    if is_unproven or is_emulated:
        yield NOT_SAFE
    if settings.raw_key_present:
        yield f"{RAW_KEY} is set and ignored; import the key into the token: {_IMPORT}"
