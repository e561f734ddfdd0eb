# syntax=docker/dockerfile:1
# eventkit alone: one binary, no shell, no root. `docker build -t eventkit .`
FROM rust:1.95.0-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock rust-toolchain.toml build.rs ./
COPY proto proto
COPY src src
# The image's own toolchain is the pinned one; the caches survive a rebuild.
ENV RUSTUP_TOOLCHAIN=1.95.0
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin eventkit \
    && cp target/release/eventkit /eventkit \
    && mkdir /data

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /eventkit /usr/local/bin/eventkit
# The owner of a new volume is taken from here.
COPY --from=build --chown=65532:65532 /data /var/lib/eventkit
USER 65532:65532
ENV EVENTKIT_DATA_DIR=/var/lib/eventkit \
    EVENTKIT_JSON_LOGS=true
VOLUME ["/var/lib/eventkit"]
EXPOSE 8000 50051
# There is no shell and no curl in here. The admin port stays on loopback, where this runs too.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["/usr/local/bin/eventkit", "health"]
ENTRYPOINT ["/usr/local/bin/eventkit"]
CMD ["serve"]
