"""
What a transaction, message or typed document means, for policy, audit and approvers.

It imports ``chain``, ``crypto``, ``amounts`` and ``addresses``.
"""
