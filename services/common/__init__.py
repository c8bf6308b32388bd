"""What two services use and none owns: errors, clock, settings, servers, channels, logs.

It knows gRPC and the process it runs in. It refuses domain words: nothing here knows what a
reservation, a prompt or a record is.
"""
