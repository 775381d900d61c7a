"""
Builds the image of ``docker/Dockerfile`` without a registry, and tries it.

``make image`` runs it, as root on Debian: ``python -m dev.image``.
"""
