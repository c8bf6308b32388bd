"""What two services use and none owns: errors, clock, settings, servers, channels, logs.

It knows gRPC and the process it runs in. It refuses domain words: nothing here knows what a
reservation, a prompt or a record is.
"""

import os

# gRPC's core writes lines of its own to standard error, which are not JSON and repeat what becomes
# an error here anyway. It reads this when it is first imported, so this is the place.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
