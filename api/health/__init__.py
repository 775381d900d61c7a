"""
What ``/readyz`` reports: readiness of the dependencies and of the signing key.

It imports ``signer`` only.
"""
