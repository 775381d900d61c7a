"""Measures the service against baselines of the same run: ``make bench``."""
