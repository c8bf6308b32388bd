"""The front door: authentication, authorisation, redaction, and the pipeline of one request.

It decides who may do what and in which order things happen. It never calls a provider, never
translates between dialects, never counts a limit and never writes the log: its neighbours do.
"""
