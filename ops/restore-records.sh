#!/bin/sh
# Puts a copy that copy-records.sh made in place of a new Valkey's log; in its container, from here:
#   docker compose exec -T redis sh -c "$(cat ops/restore-records.sh)" < records.tar
# Valkey reads it when it is started again, and forgets what it has now.
set -eu
cd "${1:-/data}"
if test "$(valkey-cli exists api_keys team_ids)" != 0; then
    echo "this Valkey knows teams or API keys; restore into one that is new" >&2
    exit 1
fi
rm -rf restoring
mkdir restoring
tar -x -C restoring
test -f restoring/appendonlydir/appendonly.aof.manifest
rm -rf appendonlydir
mv restoring/appendonlydir .
rmdir restoring
