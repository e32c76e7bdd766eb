//! Seeds that are written by hand.

use super::goldens::spoken;

pub(super) fn of(name: &str) -> Vec<Vec<u8>> {
    let texts: &[&[u8]] = match name {
        "http1" => {
            return vec![
                spoken(&[
                    (false, b"GET /a?b HTTP/1.1\r\nHost: x\r\n\r\nHEAD /c HTTP/1.1\r\nHost: x\r\n\r\n"),
                    (true, b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: u\r\n\r\n"),
                    (true, b"HTTP/1.1 204 No Content\r\n\r\n"),
                ]),
                spoken(&[
                    (false, b"POST /u HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nUpgrade: h2c\r\n\r\nabcde"),
                    (true, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\nxyz"),
                ]),
                spoken(&[(true, b"HTTP/1.0 200\nfolded: a\n b\n\nuntil the end"), (false, b"CONNECT a:1 HTTP/1.1\r\n\r\n")]),
            ];
        }
        "http2" => {
            return vec![spoken(&[
                (false, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"),
                (true, b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64"),
                (false, b"\0\0\x0e\x01\x04\0\0\0\x01\x83\x86\x84\x41\x03abc\x40\x01x\x01y\x82\0\0\x03\0\x01\0\0\0\x01abc"),
                (true, b"\0\0\x01\x01\x04\0\0\0\x01\x88\0\0\x04\0\x09\0\0\0\x01\x02a\0\0\0\0\x04\x03\0\0\0\0\x01\0\0\0\0"),
                (true, b"\0\0\x08\x07\0\0\0\0\0\0\0\0\x01\0\0\0\0"),
            ])];
        }
        "filter" => &[
            b"method == 'GET' && status >= 500 && target.startsWith('/a')",
            b"duration > duration('1s') || !complete",
            b"request.headers['x'].matches('a(b|c)*')",
        ],
        "content" => &[
            b"\x1f\x8b\x08\0\0\0\0\0\0\x03\x4b\x4c\x4a\x06\0\xc2\x41\x24\x35\x03\0\0\0",
            b"\x78\x9c\x4b\x4c\x4a\x06\0\x02\x4d\x01\x27",
            b"\x28\xb5\x2f\xfd\x04\0\x19\0\0abc\x44\xbd\x99\xcf",
            b"\x0b\x01\x80abc\x03",
        ],
        "packet" => &[
            b"\x02\0\0\0\0\x02\x02\0\0\0\0\x01\x08\0\x45\0\0\x2b\0\0\x40\0\x40\x06\0\0\x0a\0\0\x01\x0a\0\0\x02\x9c\x40\0\x50\0\0\x03\xe8\0\0\x13\x88\x50\x18\xff\xff\0\0\0\0abc",
            b"\x02\0\0\0\0\x02\x02\0\0\0\0\x01\x81\0\0\x05\x86\xdd\x60\0\0\0\0\x20\0\x40\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x02\x2c\0\0\0\0\0\0\0\x06\0\0\0\0\0\0\x01\x9c\x40\0\x50\0\0\0\0\0\0\0\0\x50\x02\xff\xff\0\0\0\0",
            b"\x45\0\0\x32\0\0\x40\0\x40\x2f\0\0\x0a\0\0\x01\x0a\0\0\x02\x20\0\x65\x58\0\0\0\x07\x02\0\0\0\0\x02\x02\0\0\0\0\x01\x08\0\x45\0\0\x14\0\0\0\0\x40\x06\0\0",
        ],
        "grpc" => &[b"\0\0\0\0\x05hello\x01\0\0\0\x01x\0\0\0\0"],
        "hpack" => &[
            // RFC 7541 appendix C.3 and C.4: the same three requests, without and with Huffman.
            b"\x14\x82\x86\x84\x41\x0fwww.example.com\x0e\x82\x86\x84\xbe\x58\x08no-cache",
            b"\x11\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff\x02\x20\x82\x02\x3f\xe1",
        ],
        "key_log" => &[b"# a comment\nCLIENT_RANDOM 00 11\n"],
        "player_option" => &[
            b"http_req_duration{endpoint:/pay,status:200}: p(95)<500; abort; delay 10s",
            b"4.5x",
            b"http://[2001:db8::1]:8080/base?x",
        ],
        "record" => &[&[1; 60], &[0; 80]],
        "protobuf" => &[b"\x08\x96\x01\x12\x07testing\x1a\x03\x08\x96\x01\x21\x01\0\0\0\0\0\0\x80\x33\x08\x01\x34\x3a\x02\xff\0"],
        "events" => &[b": hello\n\ndata: one\n\nevent: seat\r\nid: 7\r\ndata: a\r\ndata:b\r\n\r\n\nretry: 5\rdata\r\rdata: cut"],
        "websocket" => &[
            b"permessage-deflate; client_no_context_takeover\n\xc1\x87\x37\xfa\x21\x3d\xc5\xb2\xec\xf4\xfe\xfd\x21",
            b"\n\x81\x05Hello\x01\x03Hel\x80\x02lo\x89\x05Hello\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58\x82\x7e\x01\0",
            b"permessage-deflate\n\xc1\x07\xf2\x48\xcd\xc9\xc9\x07\0\xc1\x05\xf2\0\x11\0\0\x88\x02\x03\xe8",
        ],
        "place" => &[
            b"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod2f37bcd5_2d1e_4ac2_a8a3_cb8e6bc50d9f.slice/cri-containerd-c7cb1e1b0a2a4f0f8e8e4f8e0f4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e.scope",
            b"/docker/0000000000000000000000000000000000000000000000000000000000000001/kubelet/kubepods/pod0123456789abcdef0123456789abcdef/c7cb1e1b0a2a4f0f8e8e4f8e0f4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e",
        ],
        "configuration" => &[
            include_bytes!("../../../../docs/configuration/tapedeckd.yaml"),
            b"archive: {folder: /a, segment_age: 90s, retain_age: 1d}\nrules: [{ports: [80, 8080], action: headers}]\n",
        ],
        "scenario" => &[SCENARIO, b"{\"vus\": 10, \"duration\": \"30s\", \"thresholds\": {\"http_req_failed\": [\"rate<0.01\"]}}"],
        "chaos" => &[CHAOS, CHAOS_OF_CONNECTIONS],
        "har" => &[HAR],
        _ => &[],
    };
    texts.iter().map(|text| text.to_vec()).collect()
}

const SCENARIO: &[u8] = b"scenarios:
  shop:
    executor: ramping-arrival-rate
    startRate: 10
    timeUnit: 1s
    preAllocatedVUs: 5
    maxVUs: 20
    stages:
    - {target: 100, duration: 1m30s}
    - {target: 0, duration: 10s}
    filter: request.method == 'GET'
  users:
    executor: constant-vus
    vus: 3
    duration: 1m
    startTime: 5s
    gracefulStop: 3s
    iteration: session
    thinkTime: 0.5
    weights:
    - {filter: request.path == '/a', weight: 3}
    - {filter: 'true', weight: 1}
  again:
    executor: recorded
    speed: 2x
    duration: 10s
sessionBy: cookie:sid
thresholds:
  http_req_duration: ['p(95)<500', {threshold: 'avg<200', abortOnFail: true, delayAbortEval: 10s}]
insecureSkipTLSVerify: true
userAgent: me
minIterationDuration: 1s
";

const CHAOS: &[u8] = b"seed: 7
faults:
- {name: slow, when: 'request.path.startsWith(\"/pay\")', probability: 0.25, from: 30s, until: 90s, latency: {lognormal: {median: 300ms, sigma: 0.5}}}
- {name: a, latency: {pareto: {minimum: 100ms, shape: 2}}}
- {name: b, drip: {bytes: 1, every: 100ms}}
- {name: c, answer: {status: 503, body: '{}', contentType: application/json}}
- {name: d, grpc: {status: 14, message: unavailable}}
- {name: e, reset: {at: body, bytes: 100, code: 8}}
- {name: f, stall: {at: after-head, for: 10s}}
- {name: g, truncate: {bytes: 100}}
- {name: h, length: -5}
- {name: i, bandwidth: 10000}
";

const CHAOS_OF_CONNECTIONS: &[u8] = b"faults:
- {name: a, refuse: true, probability: 0.5}
- {name: b, settingsStorm: 1000}
- {name: c, tlsAlert: handshake_failure}
- {name: d, goaway: {code: 11}}
- {name: e, malformedChunk: true}
- {name: f, expiredCertificate: true}
- {name: g, windowStall: true}
- {name: h, missingTrailers: true}
";

const HAR: &[u8] = br#"{"log":{"version":"1.2","creator":{"name":"x","version":"1"},"entries":[
{"startedDateTime":"2026-11-21T08:00:00.123Z","time":12.5,"connection":"7","serverIPAddress":"10.0.0.2",
"request":{"method":"POST","url":"https://shop:8443/a?b=c","httpVersion":"HTTP/2","headers":[{"name":":authority","value":"shop"},{"name":"cookie","value":"a=b"}],"queryString":[],"cookies":[],"headersSize":-1,"bodySize":3,"postData":{"mimeType":"application/x-www-form-urlencoded","params":[{"name":"q","value":"1"}]}},
"response":{"status":200,"statusText":"OK","httpVersion":"h3","headers":[{"name":"Content-Encoding","value":"gzip"},{"name":"Transfer-Encoding","value":"chunked"}],"cookies":[],"content":{"size":5,"mimeType":"text/plain","text":"aGVsbG8=","encoding":"base64"},"redirectURL":"","headersSize":10,"bodySize":25},
"cache":{},"timings":{"blocked":-1,"send":0,"wait":10,"receive":2}},
{"startedDateTime":"x","request":{},"response":{}}]}}"#;
