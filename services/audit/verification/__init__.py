"""Verifies and reads a log from outside: with its files or over HTTP, and public keys alone."""
