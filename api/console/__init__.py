"""
What the console of administrators shows: sessions, pages and their templates.

It reads through the container's parts.  ``changes`` declares what an administrator can
change, and ``api.http.console`` has the routes.
"""
