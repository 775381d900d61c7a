"""
What administrators do, each declared once.

The route, its OpenAPI operation, the command, the pages of the console and the words of
a proposal follow from the declaration.  Modules here import what they use when an
action runs: the command line imports all declarations, also for its help.
"""
