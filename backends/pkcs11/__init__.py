"""PKCS#11 tokens, such as SoftHSM's: ``PKCS11Backend``, over python-pkcs11."""

from backends.pkcs11.backend import PKCS11Backend


__all__ = ["PKCS11Backend"]
