"""
Access to devices, networks and databases: one module or package per system.

It implements the ports of ``signer.ports`` and imports nothing of ``api``.
"""
