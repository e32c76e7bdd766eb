"""TLS: suites, resumption, 0-RTT, key updates, clients of other makes; what is read with the keys beside it."""

import os
import shutil
import subprocess

from cases import case, certificate, nginx, peer
from more_cases import CASES
from recording import PEERS, keep_whole, rewrite

__all__ = ["CASES"]

ROOT = "https://127.0.0.1"
NOTE = "Without `keys.log` there is nothing to be read: `expected.jsonl` is empty. With it: `expected-with-keys.jsonl`."


def keyed(r):
    """Where clients log their keys."""
    path = r.folder / "keys.log"
    path.unlink(missing_ok=True)
    return path


def visit(r, *argv, **options):
    """Runs a client that logs its keys as SSLKEYLOGFILE says."""
    path = r.folder / "keys.log"
    r.run(*argv, env={**os.environ, "SSLKEYLOGFILE": str(path)}, **options)
    r.commands[-1] = "SSLKEYLOGFILE=keys.log " + r.commands[-1]


def curl(r, *argv, port=8080, paths=("/", "/seats.json")):
    outputs = [word for _ in paths for word in ("-o", "/dev/null")]
    visit(r, "curl", "-s", "-k", *argv, *(f"{ROOT}:{port}{path}" for path in paths), *outputs)


def prepare(r):
    certificate(r)
    shutil.copy(PEERS / "nginx_tls_kinds.conf", r.work)
    r.run("openssl", "rand", "-out", r.work / "ticket.key", "80")


def kinds(r):
    nginx(r, conf=r.work / "nginx_tls_kinds.conf", prepare=prepare)
    keyed(r)
    r.capture()


@case("100-tls12-suites", "TLS 1.2: AES-GCM, ChaCha20-Poly1305, and AES-CBC with encrypt-then-MAC; ECDHE, DHE and RSA.", NOTE)
def tls12_suites(r):
    kinds(r)
    for suite in (
        "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-RSA-AES256-GCM-SHA384",
        "AES128-GCM-SHA256",
        "ECDHE-RSA-CHACHA20-POLY1305",
        "ECDHE-RSA-AES128-SHA",
        "ECDHE-RSA-AES128-SHA256",
        "ECDHE-RSA-AES256-SHA384",
        "AES256-SHA",
    ):
        curl(r, "--http1.1", "--tls-max", "1.2", "--ciphers", f"{suite}:@SECLEVEL=0")


@case("101-tls12-mac-then-encrypt", "TLS 1.2: AES-CBC as it was first, with the MAC within.", NOTE)
def mac_then_encrypt(r):
    kinds(r)
    for suite in ("ECDHE-RSA-AES128-SHA", "ECDHE-RSA-AES256-SHA", "AES128-SHA256", "ECDHE-RSA-AES256-SHA384"):
        r.run(
            *peer("tls_client.py", "8080", r.folder / "keys.log"),
            f"ciphers={suite}", "mac-then-encrypt", "/", "/seats.json", "/medium.txt",
        )


@case("102-tls13-suites", "TLS 1.3: AES-128-GCM, AES-256-GCM, ChaCha20-Poly1305.", NOTE)
def tls13_suites(r):
    kinds(r)
    for suite in ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"):
        curl(r, "--http1.1", "--tls13-ciphers", suite, paths=("/", "/medium.txt"))


@case("103-tls12-resumed", "TLS 1.2: sessions resumed by ticket, and by id.", NOTE)
def tls12_resumed(r):
    kinds(r)
    for port in ("8080", "8081"):
        r.run(*peer("tls_client.py", port, r.folder / "keys.log"), "connections=3", "/", "/small.txt")


@case("104-tls13-resumed", "TLS 1.3: sessions resumed with a pre-shared key.", NOTE)
def tls13_resumed(r):
    kinds(r)
    r.run(*peer("tls_client.py", "8080", r.folder / "keys.log"), "tls=1.3", "connections=3", "/", "/small.txt")


@case("105-early-data", "TLS 1.3: a request in 0-RTT data, accepted; then one that is refused, and asked again.", NOTE)
def early_data(r):
    kinds(r)
    request = "GET /{} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    (r.work / "early.txt").write_text(request.format("seats.json?early"))
    session = r.work / "session.pem"
    options = ["-keylogfile", r.folder / "keys.log", "-tls1_3", "-quiet"]
    for number, (port, how) in enumerate(
        (
            (8080, ["-sess_out", session]),
            (8080, ["-sess_in", session, "-sess_out", session, "-early_data", r.work / "early.txt"]),
            (8084, ["-sess_in", session, "-early_data", r.work / "early.txt"]),
        )
    ):
        # What is asked early is the whole call, but where it is refused.
        said = b"" if number == 1 else request.format(f"small.txt?{number}").encode()
        r.run("openssl", "s_client", "-connect", f"127.0.0.1:{port}", *options, *how, input=said, codes=(0, 1))


@case("106-key-update", "TLS 1.3: KeyUpdate by the client alone, and of both sides, between and within calls.", NOTE)
def key_update(r):
    kinds(r)
    ask = "GET /{} HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n"
    r.run(
        *peer("s_client.py", "8080", r.folder / "keys.log"),
        "<Verify return code", ask.format("small.txt?1"), "<small\\n",
        "k\\n", "<KEYUPDATE", ask.format("small.txt?2"), "<small\\n",
        "K\\n", "<KEYUPDATE", "GET /seats.json HTTP/1.1\\r\\n", "~", "K\\n", "<KEYUPDATE",
        "Host: localhost\\r\\n\\r\\n", "<59", ask.format("small.txt?3"), "<small\\n", "Q\\n",
    )


@case("107-hello-retry", "TLS 1.3: a server whose group the client sent no key share of: HelloRetryRequest.", NOTE)
def hello_retry(r):
    kinds(r)
    curl(r, "--http1.1", port=8082)
    curl(r, "--http2", "--curves", "X25519:P-384", port=8082)


@case("108-tls-h2", "HTTP/2 by ALPN: parallel streams of curl and nghttp, a refusal of HTTP/2, TLS 1.2 and 1.3.", NOTE)
def tls_h2(r):
    kinds(r)
    curl(r, "--http2", "-Z", paths=("/medium.txt", "/seats.json", "/"))
    curl(r, "--http2", "--tls-max", "1.2", paths=("/medium.txt", "/seats.json", "/"))
    curl(r, "--http2", port=8081)
    visit(r, "nghttp", "-n", "-m", "2", f"{ROOT}:8080/medium.txt", f"{ROOT}:8080/seats.json")


@case("109-client-certificate", "Both sides have a certificate, TLS 1.2 and 1.3; and a client that has none.", NOTE)
def client_certificate(r):
    kinds(r)
    mine = ["--cert", r.work / "cert.pem", "--key", r.work / "key.pem"]
    curl(r, "--tls-max", "1.2", *mine, port=8083)
    curl(r, *mine, port=8083)
    curl(r, port=8083)


@case(
    "110-tls-grpc",
    "gRPC over TLS: Python's client (BoringSSL), and a server behind Node, which takes TLS off and logs the keys.",
    NOTE,
)
def tls_grpc(r):
    certificate(r)
    log = keyed(r)
    r.start(peer("grpc_peer.py", "serve", "8090"), 8090)
    r.start(["node", PEERS / "tls_front.js", "8080", "8090", log], 8080)
    r.capture("tcp", "port", "8080")
    r.run(*peer("grpc_peer.py", "visit", "8080", r.work / "cert.pem"))


@case("111-node-https", "HTTPS between Node and Node: kept-alive connections, chunked answers, TLS 1.3 and 1.2.", NOTE)
def node_https(r):
    certificate(r)
    log = keyed(r)
    r.start(["node", PEERS / "node_https.js", "serve", "8080"], 8080)
    r.capture()
    r.run("node", f"--tls-keylog={log}", PEERS / "node_https.js", "visit", "8080")


@case(
    "112-pcapng-secrets",
    "The keys are in the pcapng file itself, in a decryption secrets block: nothing else is needed.",
)
def pcapng_secrets(r):
    kinds(r)
    curl(r, "--http1.1")
    curl(r, "--http2", "--tls-max", "1.2")
    r.stop_capture()
    keys = (r.folder / "keys.log").rename(r.work / "keys.log")
    r.run("editcap", "--inject-secrets", f"tls,{keys}", r.file, r.folder / "input.pcapng")


@case(
    "113-tls-midstream",
    "A capture that starts within a TLS connection, which its keys cannot open; the next connection is whole.",
    NOTE + " The first packets of a real capture were left out: those up to the first answer.",
)
def tls_midstream(r):
    kinds(r)
    curl(r, "--http1.1", paths=("/small.txt?1", "/seats.json?2", "/small.txt?3"))
    curl(r, "--http1.1", paths=("/small.txt?4", "/seats.json?5"))
    r.stop_capture()
    lines = subprocess.run(
        ["tshark", "-n", "-r", r.file, "-Y", "tcp.len>0 && tcp.srcport==8080", "-T", "fields", "-e", "frame.number"],
        capture_output=True, text=True, check=True,
    ).stdout.split()
    whole = r.file.with_name("raw.pcap")
    r.file.rename(whole)
    # Behind the flight with the certificate, and the tickets.
    r.run("editcap", "-F", "pcap", "-r", whole, r.file, f"{int(lines[2]) + 1}-1000000")
    r.keep()


@case(
    "114-tls-lost",
    "Segments that the capture never saw, within records of TLS 1.2 and 1.3; what is around them is read.",
    NOTE + " Rewritten: three segments of a real capture were left out by a seeded draw.",
)
def tls_lost(r):
    r.note(["ip", *"link set lo mtu 1500 gso_max_segs 1".split()])
    subprocess.run("ip link set lo mtu 1500 gso_max_segs 1".split(), check=True)
    kinds(r)
    curl(r, "--http1.1", "--tls-max", "1.2", paths=("/medium.txt", "/small.txt", "/seats.json"))
    curl(r, "--http1.1", paths=("/medium.txt", "/small.txt", "/seats.json"))
    curl(r, "--http2", paths=("/medium.txt", "/small.txt", "/seats.json"))
    rewrite(r, "lose", "3")
    keep_whole(r, r.file.with_name("raw.pcap"))


@case(
    "115-connect-tls",
    "TLS within CONNECT tunnels of a forward proxy: HTTP/1 and HTTP/2 within that.",
    NOTE.replace("nothing to be read: `expected.jsonl` is empty", "nothing but the tunnels to be read"),
)
def connect_tls(r):
    nginx(r, conf=r.work / "nginx_tls_kinds.conf", prepare=prepare)
    keyed(r)
    r.start(peer("proxy.py", "3128"), 3128)
    r.capture("port", "3128")
    through = ["-p", "-x", "http://127.0.0.1:3128"]
    curl(r, *through, "--http1.1")
    curl(r, *through, "--http2", "--tls-max", "1.2")
