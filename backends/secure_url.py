"""Decides to which URLs a secret may be sent, or from which one may be read."""

import re
from ipaddress import ip_address
from urllib.parse import urlsplit


_VISIBLE_ASCII = re.compile(r"[!-~]+")


def is_secure(url: str, *, allow_http: bool) -> bool:
    """
    Return whether *url* is an https URL with a host and without user name and password.

    With *allow_http*, plain HTTP to a loopback address is secure too.
    """
    try:
        parts = urlsplit(url)
        is_http = parts.scheme == "http" and allow_http and _is_loopback(parts.hostname)
        return bool(
            (parts.scheme == "https" or is_http)
            and parts.hostname
            and _VISIBLE_ASCII.fullmatch(url)
            and parts.port != 0
            and not (parts.username or parts.password)
        )
    except ValueError:
        return False


def _is_loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or ip_address(host or "").is_loopback
    except ValueError:
        return False
