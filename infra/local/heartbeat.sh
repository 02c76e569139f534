#!/usr/bin/env bash
# heartbeat.sh COMMAND...: runs a command and, where its own progress would not show (no terminal), says every half
# minute that it is still at it.
set -uo pipefail
if [ -t 2 ]; then
    exec "$@"
fi
started=$SECONDS
(
    trap 'kill "$nap" 2>/dev/null; exit' TERM
    while :; do
        sleep 30 &
        nap=$!
        wait "$nap"
        echo "... still at it after $((SECONDS - started)) s: $*" >&2
    done
) &
beat=$!
trap 'kill "$beat" 2>/dev/null' EXIT
"$@"
