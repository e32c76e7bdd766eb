"""Further cases: other servers and clients, streams on top of HTTP, tunnels, losses in HTTP/2."""

import contextlib
import os
import subprocess

from cases import URL, CASES, case, ip, nghttpd, nginx, peer, request
from recording import HERE, PEERS, PYTHON, keep_whole, namespace, rewrite

__all__ = ["CASES"]


def files(r):
    """The files that nginx serves, without nginx."""
    nginx(r)
    r.running.pop().terminate()
    r.commands.pop()
    r.programs.discard("nginx")


def environment(r):
    # Configurations name their folder by it.
    os.environ["WORK"] = str(r.work)


@case(
    "049-apache",
    "Apache httpd: mod_deflate, ranges, redirects, TRACE, its h2c; asked by wget, curl and ab.",
)
def apache(r):
    files(r)
    environment(r)
    r.start(["apache2", "-d", r.work, "-f", PEERS / "apache.conf", "-X"], 8080)
    r.capture()
    r.run("wget", "-q", "-O", "-", f"{URL}/", f"{URL}/medium.txt")
    r.run("wget", "-q", "--max-redirect=0", f"{URL}/old", codes=(8,))
    r.run("wget", "-q", "-O", r.work / "part", f"{URL}/seats.json")
    r.run("curl", "-s", "--compressed", f"{URL}/seats.json", f"{URL}/medium.txt", "-o", "/dev/null")
    r.run("curl", "-s", "-r", "10-99", f"{URL}/medium.txt", "-r", "0-9,100-119", f"{URL}/medium.txt")
    r.run("curl", "-s", "-X", "TRACE", f"{URL}/")
    r.run("curl", "-s", "--http2", f"{URL}/small.txt", f"{URL}/seats.json", "-o", "/dev/null")
    r.run("curl", "-s", "--http2-prior-knowledge", f"{URL}/missing")
    r.run("nghttp", "-n", f"{URL}/small.txt", f"{URL}/medium.txt")
    r.run("ab", "-q", "-k", "-n", "10", "-c", "2", f"{URL}/small.txt")


@case(
    "050-proxy-keep-alive",
    "nginx as a proxy that keeps its connections to the origin (lighttpd): both sides, many clients on few connections.",
)
def proxy_keep_alive(r):
    files(r)
    environment(r)
    r.start(["lighttpd", "-D", "-f", PEERS / "lighttpd.conf"], 8088)
    r.start(["nginx", "-p", r.work, "-c", PEERS / "proxy.conf"], 8089)
    r.capture()
    r.run("ab", "-q", "-n", "12", "-c", "3", "http://127.0.0.1:8089/small.txt")
    r.run("curl", "-s", "http://127.0.0.1:8089/seats.json", "http://127.0.0.1:8089/missing", "-o", "/dev/null")
    r.run("curl", "-s", "-d", "a=1", "http://127.0.0.1:8089/old")


@case("051-varnish", "Varnish before lighttpd: misses, hits, a pass; HEAD answered from the cache.")
def varnish(r):
    files(r)
    environment(r)
    r.start(["lighttpd", "-D", "-f", PEERS / "lighttpd.conf"], 8088)
    r.start(
        ["varnishd", "-F", "-a", "127.0.0.1:8080", "-f", PEERS / "default.vcl", "-n", r.work / "varnish", "-T", "none"],
        8080,
    )
    r.capture()
    r.run("curl", "-s", f"{URL}/small.txt", f"{URL}/small.txt", f"{URL}/seats.json", f"{URL}/old")
    r.run("curl", "-s", "-I", f"{URL}/small.txt")
    r.run("curl", "-s", "-H", "Cookie: s=1", f"{URL}/small.txt", "-d", "a=1", f"{URL}/small.txt")
    r.run("wget", "-q", "-O", "-", f"{URL}/medium.txt", f"{URL}/")


@case("052-caddy", "Caddy: zstd and gzip, h2c with prior knowledge and by Upgrade, a proxied path.")
def caddy(r):
    files(r)
    environment(r)
    r.start(peer("http_server.py", "8088", "HTTP/1.1"), 8088)
    r.start(["caddy", "run", "--config", PEERS / "Caddyfile", "--adapter", "caddyfile"], 8080)
    r.capture()
    r.run("curl", "-s", f"{URL}/hello", f"{URL}/old", f"{URL}/small.txt")
    r.run("curl", "-s", "-H", "Accept-Encoding: zstd", f"{URL}/seats.json", f"{URL}/medium.txt", "-o", "/dev/null")
    r.run("curl", "-s", "-d", "a=1", f"{URL}/api/form")
    r.run("curl", "-s", "--http2-prior-knowledge", f"{URL}/hello")
    r.run("h2load", "-n", "6", "-c", "1", "-m", "2", f"{URL}/hello", f"{URL}/seats.json")
    r.run("nghttp", "-n", "-u", f"{URL}/small.txt", f"{URL}/hello")


@case(
    "053-grpc-kinds",
    "gRPC: all four kinds of call with messages of protobuf, plain, gzip and deflate, and statuses in trailers.",
)
def grpc_kinds(r):
    r.start(peer("grpc_kinds.py", "serve", "8080"), 8080)
    r.capture()
    r.run(*peer("grpc_kinds.py", "visit", "8080"))


@case(
    "054-websocket-deflate",
    "WebSocket between two implementations: fragments, ping, close with a reason; permessage-deflate with and without context takeover, and none.",
)
def websocket_deflate(r):
    r.start(peer("aiohttp_server.py", "8080"), 8080)
    r.capture()
    r.run(*peer("websocket_client.py", "8080"))


@case("055-events", "Server-sent events with pauses between them, one in two pieces; two readers at once.")
def events(r):
    r.start(peer("aiohttp_server.py", "8080"), 8080)
    r.capture()
    r.run("curl", "-s", "-N", "-H", "Accept: text/event-stream", f"{URL}/events")
    r.run("curl", "-s", "-N", "-Z", f"{URL}/events?1", f"{URL}/events?2")


@case(
    "056-java", "Java's HttpClient: an Upgrade to h2c taken up, with calls in parallel behind it, and one not taken up."
)
def java(r):
    r.start(peer("h2_peer.py", "8080"), 8080)
    r.start(["node", PEERS / "node_server.js", "8088"], 8088)
    r.capture()
    r.run("java", PEERS / "Visit.java", "8080", "/a", "/b", "/c")
    r.run("java", PEERS / "Visit.java", "8088", "/a", "/b")


@case(
    "057-scripts", "PHP's own server, whose answers end with the connection; Ruby's net/http, Perl's LWP and HTTP::Tiny."
)
def scripts(r):
    r.start(["php", "-S", "127.0.0.1:8080", PEERS / "router.php"], 8080)
    r.start(["node", PEERS / "node_server.js", "8088"], 8088)
    r.capture()
    for port in ("8080", "8088"):
        r.run("ruby", PEERS / "visit.rb", port)
        r.run("perl", PEERS / "visit.pl", port)


@case(
    "059-h2-midstream",
    "A capture that starts in the middle of an HTTP/2 connection: fields that refer to entries from before are unknown.",
    "The first packets of a real capture were left out: those up to the end of the second exchange.",
)
def h2_midstream(r):
    nghttpd(r)
    r.capture()
    r.run("h2load", "-n", "6", "-c", "1", "-m", "1", *(f"{URL}/c.txt?{n}" for n in range(6)))
    r.stop_capture()
    lines = subprocess.run(
        ["tshark", "-n", "-r", r.file, "-d", "tcp.port==8080,http2", "-Y", "http2.header.name==\":path\"", "-T", "fields", "-e", "frame.number"],
        capture_output=True, text=True, check=True,
    ).stdout.split()
    whole = r.file.with_name("raw.pcap")
    r.file.rename(whole)
    r.run("editcap", "-F", "pcap", "-r", whole, r.file, f"{lines[2]}-1000000")
    r.keep()
    keep_whole(r, whole)


@case("060-goaway", "GOAWAY under load: nginx ends each HTTP/2 connection after four requests, while more of them are under way.")
def goaway(r):
    files(r)
    environment(r)
    r.start(["lighttpd", "-D", "-f", PEERS / "lighttpd.conf"], 8088)
    r.start(["nginx", "-p", r.work, "-c", PEERS / "proxy.conf"], 8080)
    r.capture("port", "8080")
    urls = [f"{URL}/small.txt?{n}" for n in range(4)]
    r.run("h2load", "-n", "24", "-c", "3", "-m", "3", *urls)


@case(
    "061-h2-lost",
    "HTTP/2 segments that the capture never saw, within DATA frames of two streams in turn.",
    "Rewritten: three segments of a real capture that lie within DATA were left out.",
)
def h2_lost(r):
    ip(r, "link set lo mtu 1500 gso_max_segs 1")
    nghttpd(r)
    r.capture()
    r.run("nghttp", "-n", f"{URL}/a.txt", f"{URL}/b.txt", f"{URL}/c.txt")
    rewrite(r, "lose-data", "5")
    keep_whole(r, r.file.with_name("raw.pcap"))


@case("062-vxlan", "A VXLAN between two network namespaces, captured on the link below it.")
def vxlan(r):
    with namespace(r) as other:
        tunnel(r, other, 1450)
        nginx(r, other)
        r.capture(interface="veth0")
        r.run("curl", "-s", "http://10.9.9.2:8080/", "http://10.9.9.2:8080/medium.txt", "-o", "/dev/null")


@case(
    "063-vxlan-fragments",
    "A VXLAN whose packets do not fit into the link below it: the outer packets are fragments.",
)
def vxlan_fragments(r):
    with namespace(r) as other:
        tunnel(r, other, 1500)
        nginx(r, other)
        r.capture(interface="veth0")
        r.run("curl", "-s", "http://10.9.9.2:8080/medium.txt", "-o", "/dev/null")
        r.run("curl", "-s", "-d", "@" + str(r.work / "www/medium.txt"), "http://10.9.9.2:8080/teapot")


def tunnel(r, other, mtu):
    for command in (
        "link add vx0 type vxlan id 77 local 10.8.0.1 remote 10.8.0.2 dstport 4789",
        f"link set vx0 mtu {mtu} gso_max_segs 1",
        "addr add 10.9.9.1/24 dev vx0",
        "link set vx0 up",
        f"-n {other} link add vx0 type vxlan id 77 local 10.8.0.2 remote 10.8.0.1 dstport 4789",
        f"-n {other} link set vx0 mtu {mtu} gso_max_segs 1",
        f"-n {other} addr add 10.9.9.2/24 dev vx0",
        f"-n {other} link set vx0 up",
    ):
        ip(r, command)


@case(
    "064-fragments",
    "A router whose link to the client is narrower than the server's packets, which do not forbid fragments.",
)
def fragments(r):
    with namespace(r) as other, third(r, other) as server:
        nginx(r, server)
        r.capture(interface="veth0")
        r.run("curl", "-s", "http://10.7.0.2:8080/medium.txt", "-o", "/dev/null", "http://10.7.0.2:8080/small.txt")
        r.stop_capture()
        r.keep()


@contextlib.contextmanager
def third(r, router):
    """A third namespace behind the second, whose way back is narrow."""
    name = f"{router}s"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        r.commands.append("ip netns add server")
        for command in (
            f"-n {router} link set veth1 mtu 600",
            f"-n {router} link add veth2 type veth peer name veth3 netns {name}",
            f"-n {router} addr add 10.7.0.1/24 dev veth2",
            f"-n {router} link set veth2 up",
            f"-n {name} addr add 10.7.0.2/24 dev veth3",
            f"-n {name} link set veth3 up gso_max_segs 1",
            f"-n {name} link set lo up",
            f"-n {name} route add default via 10.7.0.1",
            "route add 10.7.0.0/24 via 10.8.0.2",
        ):
            ip(r, command)
        for inside, setting in ((router, "ip_forward=1"), (name, "ip_no_pmtu_disc=1")):
            ip(r, f"netns exec {inside} sysctl -q -w net.ipv4.{setting}")
        yield name
    finally:
        r.commands = [command.replace(name, "server") for command in r.commands]
        r.end()
        subprocess.run(["ip", "netns", "del", name], check=True)


@case(
    "066-pcapng-big-endian",
    "A pcapng file in the other byte order, of two interfaces.",
    "Rewritten: the numbers of the file's own blocks were swapped.",
)
def pcapng_big_endian(r):
    with namespace(r) as other:
        nginx(r, other)
        r.start(peer("http_server.py", "8088", "HTTP/1.1"), 8088)
        r.capture("-i", "lo", "-i", "veth0", file="input.pcapng", tool="dumpcap")
        r.run("curl", "-s", "http://10.8.0.2:8080/", "http://10.8.0.2:8080/seats.json")
        r.run(*peer("http_client.py", "8088"))
        r.stop_capture()
        raw = r.file.with_name("raw.pcapng")
        r.run("cp", r.file, raw)
        r.run(PYTHON, HERE / "rewrite.py", "big-endian-pcapng", raw, r.file)
        r.keep()


@case("067-requests-only", "One direction only: what a port saw on its way in, as a mirror port gives it.")
def requests_only(r):
    nginx(r)
    r.capture("dst", "port", "8080")
    r.run("curl", "-s", f"{URL}/small.txt", f"{URL}/seats.json", "-o", "/dev/null")
    r.run("curl", "-s", "-d", "a=1", f"{URL}/teapot")
    r.run(*peer("raw_client.py", "8080", request("/one") + request("/two", "Connection: close")))


@case("068-responses-only", "One direction only: the answers, and nobody who asked.")
def responses_only(r):
    nginx(r)
    r.capture("src", "port", "8080")
    r.run("curl", "-s", f"{URL}/small.txt", f"{URL}/seats.json", "-o", "/dev/null")
    r.run("curl", "-s", f"{URL}/missing")


@case("058-ipv6-extensions", "IPv6 extension headers before TCP: destination and hop-by-hop options.")
def extensions(r):
    nginx(r)
    r.capture()
    r.run(*peer("extension_client.py", "8080", "/seats.json", "/small.txt", "/missing"))


@case(
    "065-proxy-protocol",
    "The PROXY protocol before HTTP/1 (version 1, from curl; version 2, from haproxy) and before HTTP/2.",
)
def proxy_protocol(r):
    files(r)
    environment(r)
    r.start(["nginx", "-p", r.work, "-c", PEERS / "proxy_protocol.conf"], 8091)
    config = r.work / "haproxy.cfg"
    config.write_text(
        "defaults\n mode tcp\n timeout connect 5s\n timeout client 5s\n timeout server 5s\n"
        "listen v2\n bind 127.0.0.1:8093\n server s 127.0.0.1:8091 send-proxy-v2\n"
    )
    r.start(["haproxy", "-f", config], 8093)
    r.capture("port 8091 or port 8092")
    r.run("curl", "-s", "--haproxy-protocol", "http://127.0.0.1:8091/one", "http://127.0.0.1:8091/two")
    r.run("curl", "-s", "--haproxy-protocol", "--http2-prior-knowledge", "http://127.0.0.1:8092/three")
    r.run("curl", "-s", "-d", "a=1", "http://127.0.0.1:8093/four", "http://127.0.0.1:8093/five")


@case(
    "069-h2-odd",
    "HTTP/2 frame by frame: unknown frames, header tables resized midway, extended CONNECT (WebSocket), a tunnel, padding, CONTINUATION.",
)
def h2_odd(r):
    r.capture()
    r.run(*peer("h2_odd.py", "8080"))
