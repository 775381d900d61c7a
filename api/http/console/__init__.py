"""
The routes under ``/console``: HTML pages for administrators.

Pages read, with a session.  Each change needs a token of its own, as in the API, and
calls what the API calls.
"""
