"""
What the console of administrators shows: sessions, pages and their templates.

It reads through the container's parts and changes nothing.  ``api.http.console`` has
the routes.
"""
