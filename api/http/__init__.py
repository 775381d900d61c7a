"""
The WSGI application: routes, middleware, request parsing and problem documents.

It imports ``api.auth``, ``api.views`` and ``signer``; it opens nothing.
"""
