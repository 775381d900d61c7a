"""
Cost as work grows: the same work with little and with much beside it.

Each module has one kind of growth.  It measures the small and the large case in turns,
in the same process.
"""
