# The images of agentsandbox, for people with a builder. `cargo xtask images` makes the same without one, reproducibly.
#
# Compiled inside the build (needs a registry for the Rust image); --target is operator, proxy or init:
#   docker build --target operator -t ghcr.io/agentsandbox/operator:0.1.0 .
#
# From binaries that `cargo xtask images` has built (needs no registry at all):
#   docker build --target operator --build-arg BINARIES=prebuilt -f Dockerfile target/x86_64-unknown-linux-gnu/release
ARG BINARIES=compiled
ARG RUST_IMAGE=docker.io/library/rust:1.95-bookworm

FROM scratch AS prebuilt
COPY agentsandbox-operator agentsandbox-proxy agentsandbox-init /

FROM ${RUST_IMAGE} AS compiled
WORKDIR /agentsandbox
COPY . .
# With an explicit target the flags reach our code only, not build scripts. The paths are taken out of the binaries.
RUN triple="$(rustc -vV | sed -n 's/^host: //p')" \
 && RUSTFLAGS="-C target-feature=+crt-static --remap-path-prefix=${CARGO_HOME}=/cargo" \
    cargo build --release --locked --target "${triple}" \
      --package agentsandbox-operator --package agentsandbox-proxy --package agentsandbox-init \
 && cp "target/${triple}/release/agentsandbox-operator" "target/${triple}/release/agentsandbox-proxy" \
      "target/${triple}/release/agentsandbox-init" /

FROM ${BINARIES} AS binaries

FROM scratch AS operator
COPY --from=binaries /agentsandbox-operator /agentsandbox-operator
USER 65532:65532
ENTRYPOINT ["/agentsandbox-operator"]

FROM scratch AS proxy
COPY --from=binaries /agentsandbox-proxy /agentsandbox-proxy
USER 65532:65532
ENTRYPOINT ["/agentsandbox-proxy"]

FROM scratch AS init
COPY --from=binaries /agentsandbox-init /agentsandbox-init
USER 65532:65532
ENTRYPOINT ["/agentsandbox-init"]
