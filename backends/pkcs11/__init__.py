"""PKCS#11 tokens, such as SoftHSM's: ``PKCS11Backend``."""

from backends.pkcs11.backend import PKCS11Backend


__all__ = ["PKCS11Backend"]
