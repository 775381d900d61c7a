"""
What the operator configures: environment variables and the networks file.

It imports ``model``, ``crypto`` and the modules at the top of ``signer``.
"""
