"""
The way in: HTTP, the command line, and the composition root.

Only ``api.bootstrap`` imports ``backends`` and ``softhsm``.
"""
