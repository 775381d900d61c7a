"""
The ``hotwallet`` command line: one module per command or group of commands.

``__main__`` imports a command's module when the command is used, and the command what
it uses when it runs: ``--help`` loads no library but Click, and a command that reads
the ledger no node's client and no policy.  These modules may import everything below
them; none of them may import ``backends`` or ``softhsm``, which
``api.backend_factories`` opens.
"""
