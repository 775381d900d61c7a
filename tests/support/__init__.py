"""Fakes, vectors and independent checks for several tests."""
