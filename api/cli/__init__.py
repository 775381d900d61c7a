"""
The ``hotwallet`` command line: one module per group of commands.

It imports ``api.bootstrap`` inside the commands, so that ``--help`` stays fast.
"""
