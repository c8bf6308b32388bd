"""Managed API keys: made, kept as digests, looked up, given up on all gateways within a second.

The keys of WEAVER_ALLOWED_API_KEYS are none of them; see `services.gateway.authentication`.
"""
