# The BigQuery emulator of `docker-compose.yml`: what `scripts/emulators` installs without Docker, from the same list.
FROM python:3.13.9-slim-bookworm
WORKDIR /emulator
COPY bigquery.txt bigquery.py ./
RUN useradd --create-home --uid 10001 emulator \
    && mkdir /data \
    && chown emulator /data \
    && pip install --no-cache-dir --only-binary=:all: --requirement bigquery.txt
USER 10001
# Without these beforehand it would fetch them at its first request.
RUN python -c "from duckdb_extensions import import_extension as load; [load(name) for name in ('ducklake', 'icu', 'spatial', 'httpfs')]"
EXPOSE 9050
HEALTHCHECK --interval=2s --timeout=5s --start-period=60s --retries=45 CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9050/bigquery/v2/projects/local/datasets', timeout=4)"]
CMD ["python", "bigquery.py", "--host", "0.0.0.0", "--port", "9050", "--grpc-port", "9060", "--project", "local", "--data-dir", "/data", "serve"]
