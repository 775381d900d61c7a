"""
The start-up guard: checks that refuse an unsafe configuration.

It may import every other package of ``signer``, but not ``refunds`` or ``account``.
"""
