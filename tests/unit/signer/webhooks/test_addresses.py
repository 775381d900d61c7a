"""To which addresses events may be sent."""

from ipaddress import IPv4Network, IPv6Network, ip_network

import pytest

from signer.webhooks.endpoint import LOOPBACK, Network, may_send_to


REFUSED = [
    *("0.0.0.0", "0.255.255.255", "10.0.0.1", "10.255.255.255", "100.64.0.1"),
    *("100.100.100.200", "100.127.255.255", "127.0.0.1", "127.255.255.254"),
    *("168.63.129.16", "169.254.0.1", "169.254.169.254", "169.254.170.2"),
    *("172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.192", "192.0.2.1"),
    *("192.31.196.1", "192.52.193.1", "192.88.99.1", "192.168.0.1"),
    *("192.168.255.255", "192.175.48.1", "198.18.0.1", "198.19.255.255"),
    *("198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1"),
    *("255.255.255.255", "::", "::1", "::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1"),
    *("::ffff:8.8.8.8", "::ffff:169.254.169.254", "::ffff:0:8.8.8.8"),
    *("64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::808:808", "100::1"),
    *("2001::1", "2001:0:808:808::1", "2001:2::1", "2001:10::1", "2001:20::1"),
    *("2001:db8::1", "2002:7f00:1::", "2002:808:808::", "2620:4f:8000::1", "3fff::1"),
    *("4000::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fdff:ffff::1", "fe80::1"),
    *("fe80::1%eth0", "2606:4700::1111%eth0", "fec0::1", "ff02::1"),
    *("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "", "localhost", "127.1"),
    *("2130706433", "0x7f000001", "0177.0.0.1", "8.8.8.8:443"),
]


@pytest.mark.parametrize("address", REFUSED)
def test_addresses_that_are_not_public(address: str) -> None:
    """Private, special, embedded and malformed addresses are refused."""
    assert not may_send_to(address)


@pytest.mark.parametrize(
    "address",
    [
        *("1.1.1.1", "8.8.8.8", "9.255.255.255", "100.63.255.255", "100.128.0.1"),
        *("126.255.255.255", "128.0.0.1", "169.253.255.255", "172.15.255.255"),
        *("172.32.0.1", "192.167.255.255", "223.255.255.255", "2001:200::1"),
        *("2606:4700:4700::1111", "2a00:1450:4001:80b::200e"),
    ],
)
def test_public_addresses(address: str) -> None:
    assert may_send_to(address)


def test_what_an_operator_allows() -> None:
    """An internal network can be allowed; cloud metadata cannot."""
    everything: list[Network] = [IPv4Network("0.0.0.0/0"), IPv6Network("::/0")]

    assert may_send_to("10.1.2.3", [ip_network("10.1.0.0/16")])
    assert not may_send_to("10.2.2.3", [ip_network("10.1.0.0/16")])
    assert may_send_to("127.0.0.1", LOOPBACK)
    assert may_send_to("::1", LOOPBACK)
    assert not may_send_to("::ffff:127.0.0.1", LOOPBACK)
    for metadata in (
        *("169.254.169.254", "100.100.100.200", "168.63.129.16", "192.0.0.192"),
        *("fd00:ec2::254", "fe80::a9fe:a9fe"),
    ):
        assert not may_send_to(metadata, everything)
