"""Features that a service runs without: each is a folder that can be deleted."""
