"""
What the service measures, and how ``/metrics`` reports it.

It imports ``signer`` and ``api.health``.  The ledger has every fact: workers write what
they measure into their rows, so each process that serves ``/metrics`` reports the same.
"""
