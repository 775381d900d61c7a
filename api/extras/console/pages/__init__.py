"""The routes of the console; they show what its modules read."""
