"""
The keys that sign: start-up, rotation, failover, revocation and retirement.

It imports ``audit``, ``chain``, ``ports``, ``model``, ``config`` and ``crypto``, and
nothing of ``refunds``.
"""
