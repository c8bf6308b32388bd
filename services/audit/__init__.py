"""The log that proves what happened: RFC 6962 tree, C2SP tiles, signed checkpoints.

It makes records durable, orders them, signs the result and proves it to outsiders. It never changes
what it has acknowledged, and never needs to be trusted by those who verify it.
"""
