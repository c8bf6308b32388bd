#!/bin/sh
# Starts a sentinel. What it learnt (epochs, the other sentinels, who is the master) lies in /data and
# is kept; a sentinel without a memory asks the others before it believes REDIS_FIRST_MASTER.
set -eu
umask 077

: "${REDIS_ANNOUNCE:=$(hostname)}" "${REDIS_PORT:=6379}" "${REDIS_SENTINEL_PORT:=26379}"
: "${REDIS_SENTINEL_MASTER:=mymaster}" "${REDIS_FIRST_MASTER:=redis}" "${REDIS_SENTINELS:=}"
: "${REDIS_SENTINEL_QUORUM:=2}" "${REDIS_DOWN_AFTER_MS:=5000}" "${REDIS_FAILOVER_TIMEOUT_MS:=10000}"
: "${REDIS_PASSWORD_FILE:=/run/secrets/redis/password}"
configuration=/data/sentinel.conf
server=$(command -v valkey-server || command -v redis-server)
client=$(command -v valkey-cli || command -v redis-cli)
password=$(cat "$REDIS_PASSWORD_FILE")
if [ -z "$password" ]; then
    echo "weaver: $REDIS_PASSWORD_FILE is empty; a store without a password is refused" >&2
    exit 2
fi

master_now() {
    for sentinel in $(echo "$REDIS_SENTINELS" | tr ',' ' '); do
        [ "${sentinel%:*}" != "$REDIS_ANNOUNCE" ] || continue
        found=$(REDISCLI_AUTH="$password" timeout 3 "$client" -e -h "${sentinel%:*}" -p "${sentinel##*:}" \
            sentinel get-master-addr-by-name "$REDIS_SENTINEL_MASTER" 2>/dev/null | head -n 1) || continue
        if [ -n "$found" ]; then
            echo "$found"
            return
        fi
    done
    echo "$REDIS_FIRST_MASTER"
}

if [ -f "$configuration" ]; then
    # Everything but the password, which may have been rotated since.
    sed -e "/^requirepass /d" -e "/^sentinel sentinel-pass /d" -e "/^sentinel auth-pass /d" \
        "$configuration" >"$configuration.new"
else
    master=$(master_now)
    {
        echo "port $REDIS_SENTINEL_PORT"
        echo "dir /data"
        echo "protected-mode no"
        echo "sentinel resolve-hostnames yes"
        echo "sentinel announce-hostnames yes"
        echo "sentinel announce-ip $REDIS_ANNOUNCE"
        echo "sentinel announce-port $REDIS_SENTINEL_PORT"
        echo "sentinel monitor $REDIS_SENTINEL_MASTER $master $REDIS_PORT $REDIS_SENTINEL_QUORUM"
        echo "sentinel down-after-milliseconds $REDIS_SENTINEL_MASTER $REDIS_DOWN_AFTER_MS"
        echo "sentinel failover-timeout $REDIS_SENTINEL_MASTER $REDIS_FAILOVER_TIMEOUT_MS"
        echo "sentinel parallel-syncs $REDIS_SENTINEL_MASTER 1"
    } >"$configuration.new"
fi
{
    echo "requirepass \"$password\""
    echo "sentinel sentinel-pass \"$password\""
    echo "sentinel auth-pass $REDIS_SENTINEL_MASTER \"$password\""
} >>"$configuration.new"
mv "$configuration.new" "$configuration"
exec "$server" "$configuration" --sentinel
