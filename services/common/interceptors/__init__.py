"""What happens around every call, one class a file: telemetry, access log, errors, deadline, peer.

Each wraps a method's behaviour once, when the method is first called; a call then passes through
plain nested coroutines. None of them looks into a request or a response.
"""
