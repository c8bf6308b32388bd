"""The keys that sign the log: where they come from, how they change, what they may vouch for."""
