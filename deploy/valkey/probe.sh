#!/bin/sh
# Asks the server, or the sentinel on REDIS_PROBE_PORT, whether it answers: `-e` makes an error reply,
# such as one without authentication or while data is being loaded, a failure.
set -eu
client=$(command -v valkey-cli || command -v redis-cli)
REDISCLI_AUTH=$(cat "${REDIS_PASSWORD_FILE:-/run/secrets/redis/password}")
export REDISCLI_AUTH
answer=$("$client" -e -p "${REDIS_PROBE_PORT:-6379}" ping)
[ "$answer" = PONG ]
