"""The cases: for each, who talks to whom, and how it is captured."""

import json
import os
import shutil
import subprocess
import time

from recording import PEERS, PYTHON, TARGET_DIR, keep_whole, namespace, rewrite

CASES = {}


def case(name, purpose, notes=""):
    def register(function):
        CASES[name] = (function, purpose, notes)
        return function

    return register


def ip(r, *commands):
    for command in commands:
        r.note(["ip", *command.split()])
        subprocess.run(["ip", *command.split()], check=True)


def peer(name, *arguments):
    return [PYTHON, PEERS / name, *arguments]


def nginx(r, namespace=None, conf="nginx.conf", prepare=None):
    if prepare is not None:
        prepare(r)
    (r.work / "www").mkdir()
    (r.work / "tmp").mkdir()
    (r.work / "www/index.html").write_text("<!doctype html><title>Hall</title><h1>Welcome</h1>\n")
    (r.work / "www/seats.json").write_text(json.dumps([{"seat": n, "free": n % 3 == 0} for n in range(60)]))
    (r.work / "www/small.txt").write_text("small\n")
    lines = "".join(f"line {n:06} of a large and dull text\n" for n in range(40_000))
    (r.work / "www/large.txt").write_text(lines[: 1 << 20])
    (r.work / "www/medium.txt").write_text(lines[:40_000])
    r.start(["nginx", "-p", r.work, "-c", PEERS / conf], 8080, namespace)


def nghttpd(r, *options):
    (r.work / "www").mkdir()
    (r.work / "www/a.txt").write_text("a" * 30_000)
    (r.work / "www/b.txt").write_text("b" * 20_000)
    (r.work / "www/c.txt").write_text("c" * 10)
    (r.work / "www/index.html").write_text("<h1>h2</h1>\n")
    r.start(["nghttpd", "--no-tls", "-d", r.work / "www", *options, "8080"], 8080)


def request(target, *fields, method="GET"):
    """A request without a body, escaped as raw_client.py takes it."""
    return "\\r\\n".join([f"{method} {target} HTTP/1.1", "Host: h", *fields, "", ""])


URL = "http://127.0.0.1:8080"


@case("001-keep-alive", "Several requests on one kept-alive connection, then a second connection.")
def keep_alive(r):
    nginx(r)
    r.capture()
    r.run(
        "curl",
        "-s",
        "-S",
        f"{URL}/",
        f"{URL}/seats.json?concert=1&day=%EA%B0%80",
        f"{URL}/small.txt",
        f"{URL}/missing",
    )
    r.run("curl", "-s", "-A", "second/1.0", "-H", "Connection: close", f"{URL}/small.txt")


@case(
    "002-pipelining",
    "Five requests in one segment, three in the next, one of them split in the middle of its head.",
)
def pipelining(r):
    nginx(r)
    r.capture()
    first = "".join(request(path) for path in ("/small.txt", "/", "/missing", "/empty", "/seats.json"))
    second = request("/small.txt?6") + request("/moved") + "HEAD /small.txt HT"
    last = "TP/1.1\\r\\nHost: h\\r\\nConnection: close\\r\\n\\r\\n"
    r.run(*peer("raw_client.py", "8080", first, "<5", second, "@20", last))


@case(
    "003-chunked", "Chunked bodies in both directions, both with trailers, two exchanges on one connection."
)
def chunked(r):
    r.start(["node", PEERS / "node_server.js", "8080"], 8080)
    r.capture()
    r.run("node", PEERS / "node_client.js", "8080")


@case("004-head", "HEAD: answers with a Content-Length and no body, on a connection that goes on.")
def head(r):
    nginx(r)
    r.capture()
    r.run("curl", "-s", "-I", f"{URL}/large.txt", f"{URL}/missing", f"{URL}/small.txt")
    r.run(
        *peer(
            "raw_client.py",
            "8080",
            request("/large.txt", method="HEAD") + request("/small.txt", "Connection: close"),
        )
    )


@case("005-expect-continue", "Expect: 100-continue, granted with 100 and refused with 417.")
def expect(r):
    r.start(["node", PEERS / "node_server.js", "8080"], 8080)
    r.capture()
    r.run("curl", "-s", "-H", "Expect: 100-continue", "-d", "x" * 2000, f"{URL}/upload")
    r.run("curl", "-s", "-H", "Expect: something-else", "-d", "y" * 200, f"{URL}/refused")


@case("006-interim", "103 Early Hints, and several interim answers before one final.")
def interim(r):
    r.start(["node", PEERS / "node_server.js", "8080"], 8080)
    r.start(peer("raw_server.py", "8088"), 8088)
    r.capture()
    r.run("curl", "-s", f"{URL}/hints", f"{URL}/after")
    r.run("curl", "-s", "http://127.0.0.1:8088/many-interim")


@case(
    "007-no-content",
    "Answers that never have a body: 204 and 304, one of these with the Content-Length of what it stands for; and 301 with a body.",
)
def no_content(r):
    nginx(r)
    r.start(peer("raw_server.py", "8088"), 8088)
    r.capture()
    later = "If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT"
    r.run("curl", "-s", f"{URL}/empty", "-o", "/dev/null", f"{URL}/moved", "-o", "/dev/null")
    r.run(
        *peer(
            "raw_client.py",
            "8080",
            request("/small.txt", later) + request("/empty") + request("/small.txt", "Connection: close"),
        )
    )
    r.run("curl", "-s", "-H", later, f"{URL}/seats.json", "-o", "/dev/null")
    r.run("curl", "-s", "http://127.0.0.1:8088/not-modified", "http://127.0.0.1:8088/no-reason")


@case(
    "008-http10",
    "HTTP/1.0: bodies that end with the connection, one with a length, and an HTTP/1.1 client of it.",
)
def http10(r):
    r.start(peer("http_server.py", "8080", "HTTP/1.0"), 8080)
    r.start(peer("raw_server.py", "8088"), 8088)
    r.capture()
    r.run("curl", "-s", "-0", f"{URL}/old")
    r.run("curl", "-s", "-0", f"{URL}/length")
    r.run("curl", "-s", f"{URL}/new-client", "-d", "a=1")
    r.run("curl", "-s", "-0", "http://127.0.0.1:8088/until-close")
    r.run("curl", "-s", "http://127.0.0.1:8088/until-close-11")


@case(
    "009-large-body",
    "1 MiB down and 1 MiB up over many segments of an Ethernet's size. The file is compressed with zstd.",
)
def large(r):
    ip(r, "link set lo mtu 1500 gso_max_segs 1")
    nginx(r)
    r.start(["node", PEERS / "node_server.js", "8088"], 8088)
    r.capture("-s", "1600")
    r.run("curl", "-s", "-o", "/dev/null", f"{URL}/large.txt")
    r.run("curl", "-s", "-T", r.work / "www/large.txt", "http://127.0.0.1:8088/upload")
    r.stop_capture()
    r.run("zstd", "-q", "-19", r.file)
    r.keep(str(r.file) + ".zst")


@case("010-ipv6", "IPv6, and a Host field with an address in brackets.")
def ipv6(r):
    nginx(r)
    r.capture()
    r.run("curl", "-s", "http://[::1]:8080/", "http://[::1]:8080/seats.json")


@case(
    "011-linux-cooked-v1",
    "Linux cooked capture v1, of any interface; a load generator with three connections.",
)
def cooked1(r):
    r.start(peer("asyncio_server.py", "8080"), 8080)
    r.capture("-y", "LINUX_SLL", interface="any")
    r.run("hey", "-n", "30", "-c", "3", "-m", "POST", "-d", "amount=10", f"{URL}/points?by=hey")


@case("012-linux-cooked-v2", "Linux cooked capture v2, of any interface, across a virtual Ethernet link.")
def cooked2(r):
    with namespace(r) as other:
        nginx(r, other)
        r.capture("-y", "LINUX_SLL2", interface="any")
        r.run("curl", "-s", "http://10.8.0.2:8080/", "http://10.8.0.2:8080/medium.txt")


@case("013-raw-ip", "Raw IP, without a link header: a tun device.")
def raw_ip(r):
    with namespace(r) as other:
        r.start(peer("tun_relay.py", other), "joined")
        nginx(r, other)
        r.capture(interface="tun0")
        r.run("curl", "-s", "http://10.9.0.2:8080/", "http://10.9.0.2:8080/medium.txt")


@case(
    "014-bsd-loopback",
    "BSD loopback (link type NULL), IPv4 and IPv6.",
    "Rewritten: recorded on Linux, then the Ethernet headers were replaced with what macOS writes.",
)
def bsd(r):
    nginx(r)
    r.capture()
    r.run("curl", "-s", f"{URL}/", f"{URL}/small.txt")
    r.run("curl", "-s", "http://[::1]:8080/seats.json")
    rewrite(r, "null")


@case("015-nanoseconds", "A pcap with times in nanoseconds.")
def nano(r):
    nginx(r)
    r.capture("--time-stamp-precision=nano")
    r.run("curl", "-s", f"{URL}/", f"{URL}/small.txt")


@case(
    "016-big-endian",
    "A pcap in the other byte order.",
    "Rewritten: the numbers of the file's own headers were swapped.",
)
def big(r):
    nginx(r)
    r.capture()
    r.run("curl", "-s", f"{URL}/", f"{URL}/small.txt")
    rewrite(r, "big-endian")


@case(
    "017-big-endian-nanoseconds",
    "Both: the other byte order and nanoseconds. The file is compressed with gzip.",
    "Rewritten: the numbers of the file's own headers were swapped.",
)
def big_nano(r):
    nginx(r)
    r.capture("--time-stamp-precision=nano")
    r.run("curl", "-s", f"{URL}/seats.json", f"{URL}/small.txt")
    rewrite(r, "big-endian", keep=False)
    r.run("gzip", "-9", "-n", r.file)
    r.keep(str(r.file) + ".gz")


@case("018-pcapng", "A pcapng file of two interfaces, written by dumpcap.")
def pcapng(r):
    with namespace(r) as other:
        nginx(r, other)
        r.start(peer("http_server.py", "8088", "HTTP/1.1"), 8088)
        r.capture("-i", "lo", "-i", "veth0", file="input.pcapng", tool="dumpcap")
        r.run("curl", "-s", "http://10.8.0.2:8080/")
        r.run(*peer("http_client.py", "8088"))
        r.run("curl", "-s", "http://10.8.0.2:8080/small.txt")


@case(
    "019-disorder",
    "Segments out of order and twice.",
    "Rewritten: packets of a real capture were moved and repeated by a seeded draw; the times stayed where they were.",
)
def disorder(r):
    ip(r, "link set lo mtu 1500 gso_max_segs 1")
    nginx(r)
    r.capture()
    r.run(
        "curl",
        "-s",
        f"{URL}/medium.txt",
        f"{URL}/small.txt",
        f"{URL}/seats.json",
        "-o",
        "/dev/null",
        "-o",
        "/dev/null",
        "-o",
        "/dev/null",
    )
    r.run("curl", "-s", "-d", "@" + str(r.work / "www/medium.txt"), f"{URL}/medium.txt", "-o", "/dev/null")
    rewrite(r, "disorder", "7")
    keep_whole(r, r.file.with_name("raw.pcap"))


@case(
    "020-lost-segments",
    "Segments that the capture never saw, though the peer acknowledged them, within the bodies of answers.",
    "Rewritten: four segments of a real capture were left out by a seeded draw.",
)
def lost(r):
    ip(r, "link set lo mtu 1500 gso_max_segs 1")
    nginx(r)
    r.capture()
    for _ in range(3):
        r.run(
            "curl",
            "-s",
            f"{URL}/medium.txt",
            f"{URL}/small.txt",
            f"{URL}/seats.json",
            "-o",
            "/dev/null",
            "-o",
            "/dev/null",
            "-o",
            "/dev/null",
        )
    rewrite(r, "lose", "3")
    keep_whole(r, r.file.with_name("raw.pcap"))


@case(
    "021-snaplen",
    "Packets of which only the first 400 bytes were kept: the heads are whole, longer bodies are not.",
)
def snaplen(r):
    nginx(r)
    whole = r.work / "whole.pcap"
    r.start(
        ["tcpdump", "-i", "lo", "-n", "-U", "--immediate-mode", "-B", "65536", "-w", whole], "listening on"
    )
    r.capture("-s", "400")
    r.run("curl", "-s", f"{URL}/seats.json", f"{URL}/small.txt", "-o", "/dev/null", "-o", "/dev/null")
    r.run("curl", "-s", "-d", "z" * 1000, f"{URL}/teapot")
    r.run("curl", "-s", f"{URL}/small.txt")
    r.stop_capture()
    r.running[-1].terminate()
    r.running[-1].wait(10)
    keep_whole(r, whole)


@case(
    "022-midstream", "A capture that starts in the middle of a connection, between a request and its answer."
)
def midstream(r):
    r.start(["node", PEERS / "node_server.js", "8080"], 8080)
    client = peer(
        "raw_client.py",
        "8080",
        request("/before"),
        "<1",
        request("/slow?ms=900"),
        "<2",
        request("/slow?ms=5"),
        "<3",
        request("/last", "Connection: close"),
    )
    r.note(client)
    r.commands[-1] += " &"
    process = subprocess.Popen([str(word) for word in client], stdout=subprocess.DEVNULL)
    time.sleep(0.4)
    r.capture()
    process.wait(10)


@case(
    "023-vlan",
    "VLAN tags: single on the first connection, double on the second.",
    "Rewritten: tags were put into a real capture of a virtual Ethernet link (the recording kernel had no VLAN module).",
)
def vlan(r):
    with namespace(r) as other:
        nginx(r, other)
        r.capture(interface="veth0")
        r.run("curl", "-s", "http://10.8.0.2:8080/", "http://10.8.0.2:8080/seats.json")
        r.run("curl", "-s", "http://10.8.0.2:8080/small.txt")
        rewrite(r, "vlan")


@case(
    "024-h2-interleaved",
    "HTTP/2 with prior knowledge: streams whose DATA frames alternate, under a small window.",
)
def h2_interleaved(r):
    nghttpd(r)
    r.capture()
    r.run(
        "nghttp",
        "-n",
        "-w",
        "12",
        f"{URL}/a.txt",
        f"{URL}/b.txt",
        f"{URL}/c.txt",
        f"{URL}/a.txt?again",
        f"{URL}/missing",
    )
    r.run("h2load", "-n", "24", "-c", "2", "-m", "6", f"{URL}/c.txt", f"{URL}/index.html")


@case(
    "025-hpack",
    "HPACK: many requests with values that enter, leave and come back to the dynamic table, and a table size that changes.",
)
def hpack(r):
    nghttpd(r)
    r.capture()
    long_values = [word for n in range(6) for word in ("-H", f"x-value-{n}: {chr(97 + n) * 600}")]
    r.run(
        "h2load",
        "-n",
        "40",
        "-c",
        "1",
        "-m",
        "4",
        "-H",
        "authorization: Bearer abc",
        "-H",
        "x-tenant: \u00e9",
        *long_values,
        f"{URL}/c.txt",
        f"{URL}/index.html",
        f"{URL}/missing?x=1",
    )
    r.run(
        "nghttp",
        "-n",
        "-c",
        "0",
        "-c",
        "256",
        "-H",
        "x-a: 1",
        f"{URL}/c.txt",
        f"{URL}/index.html",
        f"{URL}/c.txt?1",
    )
    r.run("curl", "-s", "--http2-prior-knowledge", f"{URL}/c.txt")


@case("026-continuation", "Heads too large for one frame, in both directions: HEADERS and CONTINUATION.")
def continuation(r):
    r.start(peer("h2_peer.py", "8080"), 8080)
    r.capture()
    large_fields = [word for n in range(8) for word in ("-H", f"x-large-{n}: {'!#$%&' * 800}")]
    r.run("nghttp", "-n", *large_fields, f"{URL}/large-head", f"{URL}/after")


@case("027-padding", "Padding on HEADERS and DATA frames of both sides, up to its greatest length.")
def padding(r):
    r.start(["nghttpd", "--no-tls", "--padding=64", "--echo-upload", "8080"], 8080)
    r.start(peer("h2_peer.py", "8088"), 8088)
    (r.work / "body").write_text("posted " * 100)
    r.capture()
    r.run("nghttp", "-n", "--padding=200", "-d", r.work / "body", f"{URL}/echo")
    r.run("nghttp", "-n", "--padding=33", "http://127.0.0.1:8088/padded", "http://127.0.0.1:8088/x")


@case("028-h2-trailers", "HTTP/2 trailers in both directions.")
def h2_trailers(r):
    nghttpd(r, "--trailer", "x-served: yes", "--echo-upload")
    (r.work / "body").write_text("posted " * 100)
    r.capture()
    r.run(
        "nghttp",
        "-n",
        "--trailer",
        "x-sum: 12",
        "--trailer",
        "x-more: 3",
        "-d",
        r.work / "body",
        f"{URL}/echo",
    )
    r.run("nghttp", "-n", f"{URL}/c.txt")


@case(
    "029-h2-reset",
    "RST_STREAM by the server before and within an answer, and by the client within one; 103 over HTTP/2; trailers.",
)
def h2_reset(r):
    r.start(["node", PEERS / "node_h2.js", "serve", "8080"], 8080)
    r.capture()
    r.run("node", PEERS / "node_h2.js", "visit", "8080")


@case(
    "030-grpc",
    "gRPC: unary, an error in trailers only, server streaming, bidirectional streaming, an unknown method.",
)
def grpc(r):
    r.start(peer("grpc_peer.py", "serve", "8080"), 8080)
    r.capture()
    r.run(*peer("grpc_peer.py", "visit", "8080"))


@case(
    "031-h2c-upgrade",
    "The switch from HTTP/1.1 to HTTP/2 by Upgrade, by two clients and two servers, and one that is not taken up.",
)
def h2c(r):
    r.start(peer("h2_peer.py", "8080"), 8080)
    r.start(peer("asyncio_server.py", "8088"), 8088)
    r.start(
        [
            "nghttpx",
            "--frontend=127.0.0.1,3128;no-tls",
            "--backend=127.0.0.1,8088",
            "--workers=1",
            "--errorlog-syslog",
        ],
        3128,
    )
    r.capture()
    r.run("curl", "-s", "--http2", "http://127.0.0.1:8088/not-taken-up")
    r.run("curl", "-s", "--http2", f"{URL}/first", f"{URL}/second")
    r.run("nghttp", "-n", "-u", f"{URL}/one", f"{URL}/two")
    r.run("nghttp", "-n", "-u", "http://127.0.0.1:3128/proxied", "http://127.0.0.1:3128/again")


@case(
    "032-beside-others",
    "HTTP among what is not: TLS, and a line protocol whose server speaks first and whose client says what looks like a request.",
)
def beside(r):
    nginx(r)
    certificate(r)
    r.start(
        ["openssl", "s_server", "-quiet", "-www", "-accept", "8443", "-key", "key.pem", "-cert", "cert.pem"],
        8443,
    )
    code = "import socket\ns=socket.create_server(('127.0.0.1',2525))\nwhile 1:\n c,_=s.accept();c.sendall(b'220 mail.test ready\\r\\n')\n while (d:=c.recv(999)) and d!=b'QUIT\\r\\n':c.sendall(b'250 '+d)\n c.sendall(b'221 bye\\r\\n');c.close()"
    r.start([PYTHON, "-c", code], 2525)
    r.capture()
    r.run("curl", "-s", f"{URL}/small.txt")
    r.run("curl", "-s", "-k", "-o", "/dev/null", "https://127.0.0.1:8443/")
    talk = "import socket,time\ns=socket.create_connection(('127.0.0.1',2525))\ns.recv(99)\nfor l in ('EHLO me','GET / HTTP/1.1','QUIT'):\n s.sendall(l.encode()+b'\\r\\n');s.recv(999)"
    r.run(PYTHON, "-c", talk)
    r.run("curl", "-s", f"{URL}/")


@case(
    "033-content-coding",
    "gzip as a content coding, in chunked answers and in a request with a length: kept as it is.",
)
def coding(r):
    nginx(r)
    r.start(["node", PEERS / "node_server.js", "8088"], 8088)
    r.run("gzip", "-k", "-n", r.work / "www/medium.txt")
    r.capture()
    r.run(
        "curl",
        "-s",
        "--compressed",
        "-o",
        "/dev/null",
        f"{URL}/zipped/seats.json",
        "-o",
        "/dev/null",
        f"{URL}/zipped/medium.txt",
    )
    r.run("curl", "-s", f"{URL}/zipped/seats.json", "-o", "/dev/null")
    r.run(
        "curl",
        "-s",
        "-H",
        "Content-Encoding: gzip",
        "--data-binary",
        "@" + str(r.work / "www/medium.txt.gz"),
        "http://127.0.0.1:8088/zipped-upload",
    )


@case("034-forms", "A URL-encoded form, a multipart form with a file, PUT, PATCH, DELETE, OPTIONS.")
def forms(r):
    r.start(peer("http_server.py", "8088", "HTTP/1.1"), 8088)
    r.start(["node", PEERS / "node_server.js", "8080"], 8080)
    (r.work / "seat.txt").write_text("row 7, seat 12\n" * 20)
    r.capture()
    form = ["--data-urlencode", "name=Kim & Lee", "--data-urlencode", "note=\uc548\ub155"]
    r.run("curl", "-s", *form, "http://127.0.0.1:8088/form")
    r.run(
        "curl",
        "-s",
        "-F",
        "field=value",
        "-F",
        "file=@" + str(r.work / "seat.txt"),
        "http://127.0.0.1:8088/upload",
    )
    r.run("curl", "-s", "-X", "PATCH", "-d", '{"seat":1}', f"{URL}/seats/1")
    r.run("curl", "-s", "-T", r.work / "seat.txt", f"{URL}/files/seat.txt")
    r.run("curl", "-s", "-X", "DELETE", f"{URL}/seats/1")
    r.run("curl", "-s", "-X", "OPTIONS", "--request-target", "*", f"{URL}/")


@case("035-websocket", "An upgrade to WebSocket: the connection is a tunnel from then on.")
def websocket(r):
    r.start(peer("websocket_peer.py", "serve", "8080"), 8080)
    r.capture()
    r.run(*peer("websocket_peer.py", "visit", "8080"))


@case("036-statuses", "Refusals and errors, and a request without a Host.")
def statuses(r):
    nginx(r)
    r.capture("port", "8080")
    for path in ("/missing", "/forbidden", "/login", "/teapot", "/broken", "/gateway", "/moved"):
        r.run("curl", "-s", "-o", "/dev/null", URL + path)
    r.run("curl", "-s", "-o", "/dev/null", "-d", "far too long a body", f"{URL}/narrow")
    r.run("curl", "-s", "-o", "/dev/null", "-X", "DELETE", f"{URL}/small.txt")
    r.run(*peer("raw_client.py", "8080", "GET / HTTP/1.1\\r\\n\\r\\n"))


@case(
    "037-absolute-form",
    "Requests to a forward proxy, in absolute form, and the same requests on their way to the origin.",
)
def absolute(r):
    nginx(r)
    r.start(peer("proxy.py", "3128"), 3128)
    r.capture()
    r.run("curl", "-s", "-x", "http://127.0.0.1:3128", f"{URL}/?a=b", "http://localhost:8080/small.txt")


@case("038-connect", "CONNECT through a forward proxy: a tunnel with HTTP inside, and one that is refused.")
def connect(r):
    nginx(r)
    r.start(peer("proxy.py", "3128"), 3128)
    (r.work / "haproxy.cfg").write_text(
        "defaults\n mode http\n timeout client 5s\n timeout connect 5s\n timeout server 5s\n"
        "frontend f\n bind 127.0.0.1:8088\n http-request deny deny_status 403 if METH_CONNECT\n default_backend b\n"
        "backend b\n server s 127.0.0.1:8080\n"
    )
    r.start(["haproxy", "-db", "-f", r.work / "haproxy.cfg"], 8088)
    r.capture("port", "3128", "or", "port", "8088")
    r.run("curl", "-s", "-p", "-x", "http://127.0.0.1:3128", f"{URL}/small.txt", f"{URL}/")
    r.run("curl", "-s", "-p", "-x", "http://127.0.0.1:8088", f"{URL}/small.txt", codes=(56,))
    r.run("curl", "-s", "http://127.0.0.1:8088/seats.json")


@case(
    "039-aborts",
    "Answers that end too early: by FIN before their length and within a chunked body, by RST, never begun; a request given up in its body.",
)
def aborts(r):
    r.start(peer("raw_server.py", "8080"), 8080)
    r.capture()
    r.run("curl", "-s", f"{URL}/short", codes=(18,))
    r.run("curl", "-s", f"{URL}/short-chunked", codes=(18,))
    r.run("curl", "-s", f"{URL}/reset", codes=(56, 18))
    r.run("curl", "-s", f"{URL}/silent", codes=(52,))
    r.run(
        *peer(
            "raw_client.py",
            "8080",
            "POST /silent HTTP/1.1\\r\\nHost: h\\r\\nContent-Length: 100\\r\\n\\r\\nonly this",
            "@30",
            "!rst",
        )
    )


@case("040-concert", "The concert service and its crowd: what the demo replays where it may not record.")
def concert(r):
    r.start([TARGET_DIR / "concert", "--listen", "127.0.0.1:8080", "--seats", "8", "--seed", "1"], 8080)
    r.capture()
    r.run(
        TARGET_DIR / "concert-crowd",
        "--target",
        URL,
        "--users",
        "30",
        "--seconds",
        "3",
        "--seed",
        "1",
        "--json",
    )


@case("041-concert-h2", "The concert service and its crowd over HTTP/2.")
def concert_h2(r):
    r.start([TARGET_DIR / "concert", "--listen", "127.0.0.1:8080", "--seats", "8", "--seed", "1"], 8080)
    r.capture()
    r.run(
        TARGET_DIR / "concert-crowd",
        "--target",
        URL,
        "--users",
        "12",
        "--seconds",
        "2",
        "--seed",
        "2",
        "--http2",
        "--json",
    )


@case(
    "042-cut-load", "A load generator's connections, and a capture that ended while answers were under way."
)
def cut_load(r):
    r.start(peer("asyncio_server.py", "8080"), 8080)
    r.capture("-c", "150")
    r.run("wrk", "-t", "1", "-c", "4", "-d", "1", "-H", "X-Load: wrk", f"{URL}/load?by=wrk")


@case(
    "043-odd-syntax",
    "What RFC 9112 lets senders do: chunk extensions, a split chunk size, folded and repeated fields, no reason phrase, leading empty lines.",
)
def odd(r):
    r.start(peer("raw_server.py", "8080"), 8080)
    r.capture()
    r.run(
        *peer(
            "raw_client.py",
            "8080",
            request("/chunk-extensions"),
            "<1",
            "\\r\\n" + request("/odd-fields"),
            "<2",
            request("/no-reason"),
            "<3",
            "!fin",
        )
    )


@case("044-push", "HTTP/2 server push: exchanges whose request the server promised.")
def push(r):
    nghttpd(r, "--push=/index.html=/c.txt,/b.txt")
    r.capture()
    r.run("nghttp", "-n", f"{URL}/index.html")


@case(
    "045-port-reuse", "Two connections from the same port one after the other: the same flow, two lifetimes."
)
def port_reuse(r):
    r.start(peer("http_server.py", "8080", "HTTP/1.0"), 8080)
    r.capture()
    # The server closes first and keeps the TIME_WAIT, so the client may use its port again at once.
    for path in ("/old?1", "/old?2"):
        r.run("curl", "-s", "-0", "--local-port", "40000", URL + path)


@case(
    "046-upload-flow-control", "HTTP/2 uploads that wait for WINDOW_UPDATE, with DATA of two streams in turn."
)
def flow_control(r):
    r.start(["node", PEERS / "node_h2.js", "serve", "8080"], 8080)
    (r.work / "body").write_text("0123456789abcdef" * 5_000)
    r.capture()
    r.run("h2load", "-n", "2", "-c", "1", "-m", "2", "-d", r.work / "body", f"{URL}/up")


@case(
    "047-retransmissions",
    "A path that loses, delays and repeats packets: retransmissions, selective acknowledgements, segments out of order, as two kernels made them.",
)
def retransmissions(r):
    with namespace(r) as other:
        r.start(peer("tun_relay.py", other, "12", "5"), "joined")
        nginx(r, other)
        r.start(["node", PEERS / "node_server.js", "8088"], 8088, other)
        r.capture(interface="tun0")
        r.run(
            "curl",
            "-s",
            "-o",
            "/dev/null",
            "http://10.9.0.2:8080/medium.txt",
            "-o",
            "/dev/null",
            "http://10.9.0.2:8080/seats.json",
        )
        r.run("curl", "-s", "-T", r.work / "www/medium.txt", "http://10.9.0.2:8088/upload")


@case(
    "048-tls",
    "TLS 1.2 and 1.3, HTTP/1.1 and HTTP/2 within, and the client's key log.",
    "Without `keys.log` there is nothing to be read: `expected.jsonl` is empty. With it: `expected-with-keys.jsonl`.",
)
def tls(r):
    nginx(r, conf=r.work / "nginx_tls.conf", prepare=certificate)
    r.capture()
    keys = {"env": {**os.environ, "SSLKEYLOGFILE": str(r.folder / "keys.log")}}
    (r.folder / "keys.log").unlink(missing_ok=True)
    url = "https://127.0.0.1:8080"
    for options in (["--http1.1", "--tls-max", "1.2"], ["--http1.1"], ["--http2"]):
        r.run("curl", "-s", "-k", *options, f"{url}/", f"{url}/seats.json", "-d", "amount=10", **keys)
        r.commands[-1] = "SSLKEYLOGFILE=keys.log " + r.commands[-1]


def certificate(r):
    # nginx looks for it beside its configuration.
    shutil.copy(PEERS / "nginx_tls.conf", r.work)
    r.run(
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        r.work / "key.pem",
        "-out",
        r.work / "cert.pem",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    )
