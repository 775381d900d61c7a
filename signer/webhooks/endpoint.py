"""The webhook of a tenant, with the keys that sign for it."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Any

from signer.config.tenants import Webhook
from signer.model.event import Event
from signer.model.refund import Refund
from signer.ports.outside_services import WebhookSender
from signer.webhooks.signatures import SigningKey, sign


Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_IPV4 = [
    IPv4Network(each)
    for each in (
        "0.0.0.0/8",  # This network.
        "10.0.0.0/8",  # Private.
        "100.64.0.0/10",  # Shared by providers; metadata of Alibaba Cloud.
        "127.0.0.0/8",  # Loopback.
        "168.63.129.16/32",  # Platform services of Azure.
        "169.254.0.0/16",  # Link-local; metadata of AWS, Azure, Google and others.
        "172.16.0.0/12",  # Private.
        "192.0.0.0/24",  # Protocol assignments; metadata of Oracle Cloud.
        "192.0.2.0/24",  # Documentation.
        "192.31.196.0/24",  # AS112.
        "192.52.193.0/24",  # Automatic multicast tunnels.
        "192.88.99.0/24",  # 6to4 relays.
        "192.168.0.0/16",  # Private.
        "192.175.48.0/24",  # AS112.
        "198.18.0.0/15",  # Benchmarks.
        "198.51.100.0/24",  # Documentation.
        "203.0.113.0/24",  # Documentation.
        "224.0.0.0/4",  # Multicast.
        "240.0.0.0/4",  # Reserved, and broadcast.
    )
]

# All global unicast addresses are in one network; of that, these are special.
_GLOBAL_IPV6 = IPv6Network("2000::/3")
_IPV6 = [
    IPv6Network(each)
    for each in (
        "2001::/23",  # Protocol assignments: Teredo, benchmarks, ORCHID.
        "2001:db8::/32",  # Documentation.
        "2002::/16",  # 6to4: embeds an IPv4 address.
        "2620:4f:8000::/48",  # AS112.
        "3fff::/20",  # Documentation.
    )
]

# Never, also if an operator allows a network around them.
_METADATA = [
    ip_network(each)
    for each in (
        "100.100.100.200/32",
        "168.63.129.16/32",
        "169.254.0.0/16",
        "192.0.0.192/32",
        "fd00:ec2::/32",
        "fe80::/10",
    )
]

LOOPBACK: Sequence[Network] = [ip_network("127.0.0.0/8"), ip_network("::1/128")]


def may_send_to(text: str, allowed: Sequence[Network] = ()) -> bool:
    """
    Return whether *text* is the address of a host that events may be sent to.

    That is a public address, or one of *allowed*, but none that gives cloud metadata.
    """
    try:
        address = ip_address(text)
    except ValueError:
        return False
    if _is_in(address, _METADATA):
        return False
    return is_public(address) or _is_in(address, allowed)


def is_public(address: Address) -> bool:
    """Return whether *address* is one that the internet routes to a single host."""
    if isinstance(address, IPv4Address):
        return not _is_in(address, _IPV4)
    if address.scope_id is not None:
        return False
    return address in _GLOBAL_IPV6 and not _is_in(address, _IPV6)


def _is_in(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in each for each in networks)


EventDocument = Callable[[Event, Refund], Mapping[str, Any]]
"""Returns an event as JSON for its tenant."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where one tenant receives its events."""

    webhook: Webhook
    keys: Sequence[SigningKey] = field(repr=False)

    def wants(self, event: Event) -> bool:
        return self.webhook.wants(event.type)

    def send(
        self,
        sender: WebhookSender,
        message_id: str,
        document: Mapping[str, Any],
        at: datetime,
    ) -> str | None:
        """Send a signed message; return the problem, or None if it was accepted."""
        body = json.dumps(document, separators=(",", ":")).encode()
        headers = {
            "Content-Type": "application/json",
            **sign(self.keys, message_id, at, body),
        }
        return sender.send(self.webhook.url, headers, body)


Endpoints = Mapping[str, Endpoint]
"""The webhooks by tenant."""
