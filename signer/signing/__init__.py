"""
Signs what a caller asks for: transactions, messages and typed data.

Every path that is no refund signs here: ``HSMAccount``, JSON-RPC and REST.  It imports
``keys``, ``policy``, ``audit`` and ``clear_signing``.
"""
