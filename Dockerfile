# The image, from source, for people without this repository's toolchain: `docker build -t tapedeck .`
# `cargo xtask image` makes a smaller one, from nothing and without a registry.
FROM docker.io/library/rust:1.95-bookworm AS build
WORKDIR /tapedeck
COPY . .
RUN cargo build --release --locked -p tapedeck -p tapedeckd -p tapedeck-controller \
 && mkdir -p /root-of-image/usr/bin \
 && for program in tapedeck tapedeckd tapedeck-controller; do strip -o /root-of-image/usr/bin/$program target/release/$program; done

# glibc and CA certificates, and no shell.
FROM gcr.io/distroless/cc-debian12
COPY --from=build /root-of-image /
# Nobody in particular. Capture needs root and the capabilities of docs/privileges.md: the DaemonSet says so.
USER 65532:65532
ENV PATH=/usr/bin
ENTRYPOINT ["/usr/bin/tapedeck"]
