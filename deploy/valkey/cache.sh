#!/bin/sh
# Starts a Valkey or Redis server as the store of the exact cache: it writes nothing to a disk, and forgets what was
# used least recently. The password never is an argument.
set -eu

: "${REDIS_PORT:=6379}" "${REDIS_MAXMEMORY:=256mb}" "${REDIS_PASSWORD_FILE:=/run/secrets/cache/password}"
server=$(command -v valkey-server || command -v redis-server)
password=$(cat "$REDIS_PASSWORD_FILE")
if [ -z "$password" ]; then
    echo "weaver: $REDIS_PASSWORD_FILE is empty; a store without a password is refused" >&2
    exit 2
fi
exec "$server" - <<END
port $REDIS_PORT
dir /tmp
protected-mode no
requirepass "$password"
appendonly no
save ""
maxmemory $REDIS_MAXMEMORY
maxmemory-policy allkeys-lru
END
