#!/usr/bin/env python3
"""Says what exchanges a case holds, by tshark: the first blessing of testdata/pcaps.

Usage: oracle.py [--write] CASE...      without --write: compares with expected.jsonl, exit code 1
       oracle.py --capture FILE         any capture: prints what it holds

tshark does the reading (packets, TCP, chunks, HPACK); this script pairs requests with answers by
TCP stream and order, or HTTP/2 stream id. One JSON object a line, in the order of `time`, which is
that of the packet with the first byte of the request. A body's length is without transfer coding
and with content coding; behind CONNECT and 101 it is that of the tunnel's bytes. An answer that is
not there has null for `status` and `response_body_len`.

`keys.log` beside an input: what can be read with those TLS keys goes to expected-with-keys.jsonl.
`whole.pcap.zst` beside an input that lacks something on purpose is read instead of it.
`corrections.json` is applied last: a list of {"match": {key: value}, "set": {key: value} or null,
"why"}; `set: null` takes the exchange out, `match: null` puts `set` in as a further one."""

import json
import pathlib
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as xml
from datetime import datetime, timezone

CASES = pathlib.Path(__file__).resolve().parent / "pcaps"
OPTIONS = [
    *("-o", "tcp.reassemble_out_of_order:TRUE"),
    *("-o", "http.decompress_body:FALSE"),
    # Heuristics before ports, so that HTTP/2 is found on the port of HTTP/1.
    *("-o", "tcp.try_heuristic_first:TRUE"),
]
DATA, HEADERS, RST_STREAM, PUSH_PROMISE, CONTINUATION = 0, 1, 3, 5, 9


def tshark(path, keys, *options):
    log = ("-o", f"tls.keylog_file:{keys}") if keys else ()
    done = subprocess.run(
        ["tshark", "-n", "-r", path, *OPTIONS, *log, *options], capture_output=True, check=True
    )
    return done.stdout


class Connection:
    """What the TCP headers of one stream say."""

    def __init__(self):
        self.client = None
        self.sent = {}  # Endpoint: bytes of its direction, by sequence number.
        self.fin = set()


class Exchange:
    def __init__(self, time, protocol, method):
        self.time, self.protocol, self.method = time, protocol, method
        self.scheme = self.authority = self.path = self.status = None
        self.request_len, self.response_len = 0, None
        self.request_whole = self.response_whole = False
        self.connection = self.client = self.server = None

    def row(self):
        seconds, _, nanos = self.time.partition(".")
        at = datetime.fromtimestamp(int(seconds), timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
        return {
            "time": f"{at}.{nanos:0<9}Z",
            "client": self.client,
            "server": self.server,
            "protocol": self.protocol,
            "method": self.method,
            "scheme": self.scheme,
            "authority": self.authority,
            "path": self.path,
            "status": self.status,
            "request_body_len": self.request_len,
            "response_body_len": self.response_len,
            "complete": self.request_whole and self.response_whole,
        }


def fields(element, name):
    return [field for field in element.iter("field") if field.get("name") == name]


def first(element, name):
    return next((field.get("show") for field in fields(element, name)), None)


def raw(element, name):
    """The bytes of a field, as text: tshark replaces what it cannot show."""
    value = next((field.get("value") for field in fields(element, name)), None)
    return None if value is None else bytes.fromhex(value).decode("latin-1")


def endpoint(address, port):
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def read_packets(path, keys):
    names = "tcp.stream ip.src ipv6.src tcp.srcport ip.dst ipv6.dst tcp.dstport tcp.flags tcp.nxtseq tcp.len frame.number frame.time_epoch"
    wanted = [word for name in names.split() for word in ("-e", name)]
    text = tshark(
        path, keys, "-Y", "tcp", "-T", "fields", "-E", "separator=|", "-E", "occurrence=f", *wanted
    ).decode()
    connections, times = {}, {}
    for line in text.splitlines():
        stream, src4, src6, sport, dst4, dst6, dport, flags, following, size, frame, time = line.split("|")
        if not flags:
            # A fragment, or a header that was cut.
            continue
        source, target = endpoint(src4 or src6, sport), endpoint(dst4 or dst6, dport)
        connection = connections.setdefault(stream, Connection())
        flags = int(flags, 16)
        if flags & 0x12 == 0x02:
            connection.client = source
        if flags & 1:
            connection.fin.add(source)
        # Relative numbers count the SYN; a FIN comes behind the data.
        behind = int(following or 0) - 1 - (flags & 1) if int(size or 0) else 0
        connection.sent[source] = max(connection.sent.get(source, 0), behind)
        times[frame] = time
        connection.sent.setdefault(target, 0)
    return connections, times


class Oracle:
    def __init__(self, path, keys, given):
        self.connections, self.times = read_packets(path, keys)
        # Two captures of the same packets at the same time differ by microseconds.
        times = read_packets(given, keys)[1]
        if times.keys() == self.times.keys():
            self.times = times
        self.exchanges = []
        self.waiting = {}  # TCP stream: HTTP/1 exchanges whose answer has not begun.
        self.early = {}  # TCP stream: an answer without a request so far.
        self.read = {}  # (TCP stream, sender): bytes of HTTP/1 messages so far.
        self.streams = {}  # (TCP stream, HTTP/2 stream): exchange.
        self.unended_heads = {}  # (TCP stream, HTTP/2 stream, sender): END_STREAM and time of a HEADERS before CONTINUATION.
        self.tunnels = {}  # TCP stream: the exchange behind which it is a tunnel.
        self.upgrading = {}  # TCP stream: the exchange that switched it to HTTP/2.
        text = tshark(path, keys, "-Y", "http || http2", "-T", "pdml")
        for packet in xml.fromstring(text).iter("packet"):
            self.packet(packet)
        for stream, exchange in self.tunnels.items():
            self.end_tunnel(stream, exchange)

    def packet(self, packet):
        frame = first(packet.find("proto[@name='geninfo']"), "num")
        tcp = packet.find("proto[@name='tcp']")
        address = packet.find("proto[@name='ip']")
        name = "ip" if address is not None else "ipv6"
        address = packet.findall(f"proto[@name='{name}']")[-1]
        sender = endpoint(first(address, f"{name}.src"), first(tcp, "tcp.srcport"))
        receiver = endpoint(first(address, f"{name}.dst"), first(tcp, "tcp.dstport"))
        stream = first(tcp, "tcp.stream")
        begun = frame
        self.scheme = "http" if packet.find("proto[@name='tls']") is None else "https"
        for proto in packet.iter("proto"):
            if proto.get("name") == "fake-field-wrapper":
                # The message that follows began in another packet.
                begun = first(proto, "tcp.segment") or begun
            elif proto.get("name") in ("http", "http2"):
                read = self.http1 if proto.get("name") == "http" else self.http2
                read(stream, sender, receiver, self.times[begun], proto)
                begun = frame

    def http1(self, stream, sender, receiver, time, http):
        if stream in self.tunnels:
            return
        length, whole = self.body(stream, sender, http)
        key = (stream, sender)
        # The size of the element is that of the head; the body is beside it.
        start = int(http.get("pos"))
        ends = [int(f.get("pos")) - start + int(f.get("size")) for f in http.findall("field") if f.get("pos")]
        self.read[key] = self.read.get(key, 0) + max(ends, default=0)
        if (method := first(http, "http.request.method")) is not None:
            exchange = Exchange(time, first(http, "http.request.version") or "HTTP/1.0", method)
            exchange.client, exchange.server = sender, receiver
            target = raw(http, "http.request.uri")
            exchange.path, exchange.scheme = target, self.scheme
            exchange.authority = first(http, "http.host")
            if target and "://" in target and not target.startswith("/"):
                exchange.scheme, _, rest = target.partition("://")
                exchange.authority = rest.split("/")[0]
            elif method == "CONNECT":
                exchange.authority = target
            exchange.request_len, exchange.request_whole = length, whole
            early = self.early.pop(stream, None)
            if early is not None and float(early.time) > float(time):
                # Answered before its body was over.
                exchange.status, exchange.response_len = early.status, early.response_len
                exchange.response_whole = early.response_whole
                self.exchanges.remove(early)
            else:
                self.waiting.setdefault(stream, []).append(exchange)
            self.exchanges.append(exchange)
        elif (status := first(http, "http.response.code")) is not None:
            status = int(status)
            if 100 <= status < 200 and status != 101:
                return
            waiting = self.waiting.get(stream)
            if waiting:
                exchange = waiting.pop(0)
            else:
                # The request was before the capture, or is not over yet.
                exchange = Exchange(time, first(http, "http.response.version"), None)
                exchange.client, exchange.server = receiver, sender
                exchange.request_len = None
                self.exchanges.append(exchange)
                self.early[stream] = exchange
            if status == 101 and "h2c" in " ".join(f.get("show") for f in fields(http, "http.upgrade")):
                self.upgrading[stream] = exchange
                return
            exchange.status = status
            if exchange.method == "HEAD" or status in (204, 304):
                length, whole = 0, True
            exchange.response_len, exchange.response_whole = length, whole
            if status == 101 or exchange.method == "CONNECT" and status < 300:
                self.tunnels[stream] = exchange

    def body(self, stream, sender, http):
        """The length of a body, and whether it is all there."""
        sizes = [int(field.get("show")) for field in fields(http, "http.chunk_size")]
        data = next(iter(fields(http, "http.file_data")), None)
        coded = [
            f for f in fields(http, "") if (f.get("show") or "").startswith(("Content-encoded entity body",))
        ]
        coding = (first(http, "http.transfer_encoding") or "").lower()
        if "chunked" in coding:
            return sum(sizes), bool(sizes) and sizes[-1] == 0
        held = int(coded[0].get("size")) if coded else len(data.get("value")) // 2 if data is not None else 0
        promised = first(http, "http.content_length")
        if promised is not None:
            return held, held == int(promised)
        if first(http, "http.request.method") is not None:
            return held, True
        return held, sender in self.connections[stream].fin

    def end_tunnel(self, stream, exchange):
        sent = self.connections[stream].sent
        exchange.request_len = sent[exchange.client] - self.read[stream, exchange.client]
        exchange.response_len = sent[exchange.server] - self.read[stream, exchange.server]
        exchange.request_whole = exchange.response_whole = True

    def http2(self, stream, sender, receiver, time, http):
        for frame in fields(http, "http2.stream"):
            kind, number = first(frame, "http2.type"), first(frame, "http2.streamid")
            if kind is None or number == "0":
                continue
            kind, number = int(kind), int(number)
            key = (stream, number)
            ended = first(frame, "http2.flags.end_stream") in ("1", "True")
            if kind == DATA:
                padded = first(frame, "http2.flags.padded") in ("1", "True")
                size = int(first(frame, "http2.length"))
                if padded:
                    size -= 1 + int(first(frame, "http2.padding") or "0", 16)
                if number == 1 and stream in self.upgrading:
                    self.streams.setdefault(key, self.upgrading[stream])
                self.http2_data(self.streams[key], sender, size, ended)
            elif kind in (HEADERS, CONTINUATION, PUSH_PROMISE):
                pairs = []
                for header in fields(frame, "http2.header"):
                    pairs.append((raw(header, "http2.header.name"), raw(header, "http2.header.value") or ""))
                if kind == PUSH_PROMISE:
                    key = (stream, int(first(frame, "http2.push_promise.promised_stream_id")))
                    ended = True
                elif kind == CONTINUATION:
                    ended, time = self.unended_heads.get((*key, sender), (False, time))
                if pairs:
                    client, server = (receiver, sender) if kind == PUSH_PROMISE else (sender, receiver)
                    self.http2_head(key, client, server, sender, time, dict(pairs), ended)
                elif kind == HEADERS:
                    self.unended_heads[(*key, sender)] = (ended, time)

    def http2_head(self, key, client, server, sender, time, head, ended):
        exchange = self.streams.get(key)
        if exchange is None and key[1] == 1 and key[0] in self.upgrading:
            exchange = self.streams[key] = self.upgrading[key[0]]
        if ":method" in head:
            exchange = Exchange(time, "HTTP/2", head[":method"])
            exchange.client, exchange.server = client, server
            exchange.scheme, exchange.authority = head.get(":scheme"), head.get(":authority")
            exchange.path = head.get(":path")
            self.streams[key] = exchange
            self.exchanges.append(exchange)
            exchange.request_whole = ended
        elif ":status" in head:
            status = int(head[":status"])
            if status >= 200:
                exchange.status, exchange.response_len = status, 0
                exchange.response_whole = ended
        else:
            self.http2_data(exchange, sender, 0, ended)

    @staticmethod
    def http2_data(exchange, sender, size, ended):
        if sender == exchange.client:
            exchange.request_len += size
            exchange.request_whole |= ended
        else:
            exchange.response_len = (exchange.response_len or 0) + size
            exchange.response_whole |= ended


def correct(rows, corrections):
    for entry in corrections:
        if entry["match"] is None:
            rows.append(entry["set"])
            continue
        found = [row for row in rows if all(row[key] == value for key, value in entry["match"].items())]
        if not found:
            sys.exit(f"nothing matches {entry['match']}")
        for row in found:
            if entry["set"] is None:
                rows.remove(row)
            else:
                row.update(entry["set"])


def expectation(folder, keys=None):
    whole, given = next(iter(folder.glob("whole.*")), None), next(folder.glob("input.*"))
    source = whole or given
    with tempfile.TemporaryDirectory() as temporary:
        if source.suffix == ".zst":
            plain = pathlib.Path(temporary) / source.stem
            subprocess.run(["zstd", "-q", "-d", source, "-o", plain], check=True)
            source = plain
        rows = [exchange.row() for exchange in Oracle(str(source), keys, str(given)).exchanges]
    corrections = folder / "corrections.json"
    # Where there are keys, they are about what is read with them.
    if corrections.exists() and bool(keys) == (folder / "keys.log").exists():
        correct(rows, json.loads(corrections.read_text()))
    rows.sort(key=lambda row: row["time"])
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def main():
    arguments = sys.argv[1:]
    if arguments[:1] == ["--capture"]:
        rows = [exchange.row() for exchange in Oracle(arguments[1], None, arguments[1]).exchanges]
        print("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), end="")
        return
    write = "--write" in arguments
    names = [name for name in arguments if name != "--write"]
    differing = []
    for folder in [CASES / name for name in names] or sorted(CASES.glob("*/")):
        texts = {"expected.jsonl": expectation(folder)}
        if (folder / "keys.log").exists():
            texts["expected-with-keys.jsonl"] = expectation(folder, folder / "keys.log")
        for name, text in texts.items():
            file = folder / name
            if write:
                file.write_text(text)
            elif not file.exists() or file.read_text() != text:
                differing.append(f"{folder.name}/{name}")
    if differing:
        sys.exit("tshark and expected.jsonl differ: " + ", ".join(differing))


if __name__ == "__main__":
    main()
