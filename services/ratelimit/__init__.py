"""Limits: one atomic decision per call in a shared store, on the store's own clock.

It decides whether a call may be made and charges what it used. It knows nothing of prompts,
providers or credentials, and never trusts a caller's clock.
"""
