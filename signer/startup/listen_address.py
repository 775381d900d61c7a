"""
Who can reach the service, and whose word it takes for where a request came from.

Beyond its own host it must stand behind a proxy: slow clients, which cost a proxy
nothing, take all threads of the service (``docs/how-to/deploy.md``).
"""

import re
from collections.abc import Iterable, Iterator
from ipaddress import ip_address, ip_network

from signer.config.settings import Settings
from signer.errors import Refusal


# The widest networks that somebody may own: 10.0.0.0/8, fc00::/7.
_WIDEST = 7

# As gunicorn reads it.  ``fd://3`` may listen anywhere, and so is not here.
_UNIX = re.compile(r"unix:")
_HOST = re.compile(r"(?:tcp://)?(?:\[(?P<six>[^\]]*)\]|(?P<host>[^:\[\]]*))(?::\d+)?")


def exposure_refusals(settings: Settings) -> Iterator[Refusal]:
    """Yield why nobody should reach the service as it is configured."""
    if not stays_on_host(settings.bind) and not settings.trusted_proxies:
        yield Refusal(
            "proxy-missing",
            "BIND listens beyond this host; put a proxy in front, and name its address "
            "in TRUSTED_PROXIES",
        )
    if believes_strangers(settings.trusted_proxies):
        yield Refusal(
            "proxy-anybody",
            "TRUSTED_PROXIES names half of the world; name the proxies' own addresses",
        )


def stays_on_host(bind: str) -> bool:
    """
    Whether only processes of this host reach what listens on *bind*.

    >>> [stays_on_host(bind) for bind in ("127.0.0.1:80", "[::1]:80", "unix:/run/s")]
    [True, True, True]
    >>> [stays_on_host(bind) for bind in ("0.0.0.0:80", ":80", "db.internal:80")]
    [False, False, False]
    """
    if _UNIX.match(bind):
        return True
    found = _HOST.fullmatch(bind)
    host = (found["six"] or found["host"] or "") if found else ""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:  # A name may mean any address, and nothing means all of them.
        return False


def believes_strangers(networks: Iterable[str]) -> bool:
    """Whether *networks* are so wide that anybody may say where he comes from."""
    return any(ip_network(network).prefixlen < _WIDEST for network in networks)
