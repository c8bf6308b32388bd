"""Witnesses: others who vouch that the log only grows, and the small one that we bring along."""
