"""
ERC-20 calldata and events, fee rules, and a network with its client.

It imports ``ports``, ``model``, ``config`` and ``crypto``.
"""
