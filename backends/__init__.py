"""Touches the outside world: keys, chain, disk.  One file each."""
