"""Copies of the log elsewhere, and what may leave the disk once a copy is proven."""
