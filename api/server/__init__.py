"""
gunicorn: its settings, worker class, client timeouts and WSGI entry point.

Only this package of ``api`` may use sockets.
"""
