"""
The SoftHSM token of a developer's machine, for development and tests.

It may import ``backends.pkcs11`` and ``signer``.  Importing the package imports nothing
else, because pytest does it at each start (``softhsm.pytest_plugin``).
"""
