"""
Checks who can reach the service, and which proxies it trusts.

A service that listens beyond its own host needs a proxy in front: a few slow clients,
which a proxy can buffer, would take all of its threads (``docs/how-to/deploy.md``).
"""

import re
from collections.abc import Iterable, Iterator
from ipaddress import ip_address, ip_network

from signer.config.settings import Settings
from signer.errors import Refusal


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
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False  # A name may resolve to any address; no host means all of them.


def trusts_public_networks(networks: Iterable[str]) -> bool:
    """Return whether *networks* include hosts that could forge a client's address."""
    return any(ip_network(network).prefixlen < _SHORTEST_PREFIX for network in networks)
