"""
The ``hotwallet`` command line: one module per command or group of commands.

``__main__`` imports a command's module when the command runs, so that ``--help`` is
fast.  These modules may import everything below them; none of them may import
``backends`` or ``softhsm``, which ``api.backend_factories`` opens.
"""
