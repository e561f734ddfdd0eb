#!/usr/bin/env bash
# Sends events to eventkit over HTTP, a batch a request. What fails is sent again, with the same message ids, and each event is
# still one row.
#
#     ./send.sh http://localhost:8000 < events.ndjson
#
# Each line is one event: {"userId": "ada", "event": "Order Placed", "properties": {"total": 12.5}}
set -euo pipefail
host=$1
batch_events=500
# Made once, here: every retry carries it, and eventkit stores an id once.
run="$(hostname)-$(date +%s)-$$"
answer=$(mktemp)
trap 'rm -f "$answer"' EXIT

n=0
while mapfile -t -n "$batch_events" lines && [ "${#lines[@]}" -gt 0 ]; do
  events=()
  for line in "${lines[@]}"; do
    events+=("{\"messageId\":\"$run-$((++n))\",\"type\":\"track\",${line#\{}")
  done
  # curl tries again after 408, 429, 500, 502, 503 and 504, when Retry-After says so, and after a connection that broke.
  status=$(IFS=, && printf '[%s]' "${events[*]}" | gzip |
    curl --silent --show-error --output "$answer" --write-out '%{http_code}' \
      --connect-timeout 5 --max-time 30 --retry 10 --retry-all-errors --retry-max-time 120 \
      --header 'Content-Type: application/json' --header 'Content-Encoding: gzip' \
      --data-binary @- "$host/collect")
  cat "$answer" && echo
  # 202: stored, but for what stands in the answer as rejected. Anything else will not be better next time.
  [ "$status" = 202 ] || exit 1
done
