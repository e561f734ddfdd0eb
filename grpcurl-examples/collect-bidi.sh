#!/usr/bin/env bash
# Streams a file of numbered batches, one JSON message per line, and hears an acknowledgement for each.
set -euo pipefail
PATH="$(dirname "$0")/../.tools/bin:$PATH"
host=${EVENTKIT_HOST:-localhost:50051}
file=${1:-$(dirname "$0")/batches.ndjson}

grpcurl -plaintext -d @ "$host" eventkit.v1.IngestService/CollectBidi < "$file"
