"""
The keys that sign: start-up, rotation, failover, revocation and retirement.

It may import ``audit``, ``chain``, ``alerts``, ``ports``, ``model``, ``config`` and
``crypto``, but not ``refunds``.
"""
