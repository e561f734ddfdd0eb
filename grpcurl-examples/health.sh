#!/usr/bin/env bash
# Asks for the server's health: as a whole, and of the ingest service alone.
set -euo pipefail
PATH="$(dirname "$0")/../.tools/bin:$PATH"
host=${EVENTKIT_HOST:-localhost:50051}

grpcurl -plaintext "$host" grpc.health.v1.Health/Check
grpcurl -plaintext -d '{"service": "eventkit.v1.IngestService"}' "$host" grpc.health.v1.Health/Check
