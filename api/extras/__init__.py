"""
Features that a service runs without, each whole in a folder that can be deleted.

An extra imports the core, declares what it adds in ``EXTRA``, and imports no other
extra.  ``api/extension.py`` finds it.
"""
