"""What is known of a module by its manufacturer or its file."""

import pytest

from backends.pkcs11.cryptoki import quirks_of


@pytest.mark.parametrize(
    ("manufacturer", "path", "threads", "is_serialized"),
    [
        ("SoftHSM", "/usr/lib/softhsm/libsofthsm2.so", 2, False),
        ("Yubico (www.yubico.com)", "/usr/lib/yubihsm_pkcs11.so", 1, False),
        ("of the device", "/usr/lib/pkcs11/p11-kit-client.so", 1, True),
        ("PKCS#11 Kit", "/usr/lib/p11-kit-proxy.so", 1, True),
        ("another", "/usr/lib/another.so", 8, False),
        ("", "/usr/lib/another.so", 8, False),
    ],
)
def test_a_module_is_known_by_either_name(
    manufacturer: str, path: str, threads: int, is_serialized: bool
) -> None:
    """p11-kit's module shows the manufacturer of the device."""
    quirks = quirks_of(manufacturer, path)

    assert (quirks.threads, quirks.is_serialized) == (threads, is_serialized)
