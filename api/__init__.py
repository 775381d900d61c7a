"""
The way in: HTTP, the command line, and the composition root.

Only ``api.backend_factories`` imports ``backends``.
"""
