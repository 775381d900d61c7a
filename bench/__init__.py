"""Where the time goes, as ratios to the bare calls.  Run by hand: ``make bench``."""
