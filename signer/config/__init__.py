"""
The configuration: environment variables and the networks file.

It may import ``crypto`` and the modules below it, such as ``errors`` and ``amounts``.
"""
