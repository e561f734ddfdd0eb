# The Pub/Sub emulator of `docker-compose.yml`, and in front of it what `scripts/emulators` starts in front of it without Docker:
# pubsub-front/main.go says why.
FROM golang:1.24.10-bookworm AS front
WORKDIR /src
COPY pubsub-front/ ./
RUN CGO_ENABLED=0 go build -o /pubsub-front .

FROM gcr.io/google.com/cloudsdktool/google-cloud-cli:528.0.0-emulators
COPY --from=front /pubsub-front /usr/local/bin/pubsub-front
# It grows to more than 2 GB otherwise.
ENV JAVA_TOOL_OPTIONS=-Xmx512m
RUN useradd --create-home --uid 10001 emulator
USER 10001
EXPOSE 8085
HEALTHCHECK --interval=2s --timeout=5s --retries=45 CMD ["curl", "--fail", "--silent", "--output", "/dev/null", "http://127.0.0.1:8085/"]
CMD ["pubsub-front", "-listen", "0.0.0.0:8085", "-emulator", "127.0.0.1:8086", "gcloud", "beta", "emulators", "pubsub", "start", "--project=local", "--host-port=127.0.0.1:8086"]
