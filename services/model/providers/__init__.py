"""The vendors' APIs, one file each, behind `services.model.ports.Provider`.

A provider speaks its vendor's wire format with its own key. It refuses to try twice, to choose
another provider, or to translate: those are decided above it.
"""
