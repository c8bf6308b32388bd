#!/bin/sh
# Starts a Valkey or Redis server as what the sentinels say it is: the master, or a replica of it.
#
# Where no sentinel answers it is what it was when it ended, and at the very first start a replica of
# REDIS_FIRST_MASTER, or the master if that is itself. So a master that comes back after a failover
# comes back as a replica, and not as a second master. The password never is an argument.
set -eu
umask 077

: "${REDIS_ANNOUNCE:=$(hostname)}" "${REDIS_PORT:=6379}" "${REDIS_MAXMEMORY:=1gb}"
: "${REDIS_SENTINEL_MASTER:=mymaster}" "${REDIS_FIRST_MASTER:=redis}" "${REDIS_SENTINELS:=}"
: "${REDIS_PASSWORD_FILE:=/run/secrets/redis/password}"
configuration=/data/valkey.conf
server=$(command -v valkey-server || command -v redis-server)
client=$(command -v valkey-cli || command -v redis-cli)
password=$(cat "$REDIS_PASSWORD_FILE")
if [ -z "$password" ]; then
    echo "weaver: $REDIS_PASSWORD_FILE is empty; a store without a password is refused" >&2
    exit 2
fi

master_now() {
    for sentinel in $(echo "$REDIS_SENTINELS" | tr ',' ' '); do
        found=$(REDISCLI_AUTH="$password" timeout 3 "$client" -e -h "${sentinel%:*}" -p "${sentinel##*:}" \
            sentinel get-master-addr-by-name "$REDIS_SENTINEL_MASTER" 2>/dev/null | head -n 1) || continue
        if [ -n "$found" ]; then
            echo "$found"
            return
        fi
    done
    if [ -f "$configuration" ]; then
        before=$(sed -n 's/^replicaof "\{0,1\}\([^ "]*\)"\{0,1\} .*/\1/p' "$configuration")
        echo "${before:-$REDIS_ANNOUNCE}"
    else
        echo "$REDIS_FIRST_MASTER"
    fi
}

master=$(master_now)
{
    echo "port $REDIS_PORT"
    echo "dir /data"
    echo "protected-mode no"
    echo "requirepass \"$password\""
    echo "masterauth \"$password\""
    echo "replica-announce-ip $REDIS_ANNOUNCE"
    echo "replica-announce-port $REDIS_PORT"
    # What a limit has charged must survive a restart, and must not be evicted.
    echo "appendonly yes"
    echo "appendfsync everysec"
    echo "save 3600 1"
    echo "maxmemory $REDIS_MAXMEMORY"
    echo "maxmemory-policy noeviction"
    echo "repl-diskless-sync-delay 0"
    if [ "$master" != "$REDIS_ANNOUNCE" ]; then
        echo "replicaof $master $REDIS_PORT"
    fi
} >"$configuration.new"
mv "$configuration.new" "$configuration"
echo "weaver: $REDIS_ANNOUNCE starts; the master is $master"
exec "$server" "$configuration"
