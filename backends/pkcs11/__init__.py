"""A PKCS#11 token, SoftHSM's or any other's: ``PKCS11Backend``, over python-pkcs11."""

from backends.pkcs11.backend import PKCS11Backend


__all__ = ["PKCS11Backend"]
