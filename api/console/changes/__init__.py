"""
The changes that an administrator makes in the console, declared as values.

Each says which fields its form has, which scope its token needs, what its confirmation
page shows, and what it calls: the service that the API or the command calls as well.
``api.http.console.changes`` has the three pages that carry all of them.
"""
