#!/bin/sh
# Writes the records to standard output as a tar while Valkey runs; in its container, from here (docs/operations.md):
#   docker compose exec -T redis sh -c "$(cat ops/copy-records.sh)" > records.tar
# Standard Valkey practice: no rewrite may take files of the append-only log away meanwhile. A command that is cut off at
# the log's end is dropped when it is read again, with the whole commit that it belongs to.
set -eu
trap 'valkey-cli config set auto-aof-rewrite-percentage 100 > /dev/null' EXIT
trap 'exit 1' HUP INT TERM
valkey-cli -e config set auto-aof-rewrite-percentage 0 > /dev/null
until valkey-cli info persistence | grep -q '^aof_rewrite_in_progress:0'; do sleep 1; done
tar -C "${1:-/data}" -c appendonlydir || { test $? = 1 && tar --version | grep -q GNU; }  # GNU's 1: the log has grown
