"""Makes of a real capture what this machine cannot record.

Usage: rewrite.py KIND IN.pcap OUT.pcap [SEED]

KIND  null        BSD loopback (link type 0), as macOS records it
      big-endian  the file's own numbers in the other byte order
      vlan        an 802.1Q tag on every frame; a second one (802.1ad outside) on every other connection
      disorder    segments swapped with a near one, some twice; times stay where they were
      lose        some segments with data towards the client left out

Reads pcap of this machine's byte order, Ethernet; keeps the unit of the times."""

import random
import struct
import sys


def read(path):
    data = open(path, "rb").read()
    magic, *_, snaplen, link = struct.unpack_from("<IHHiIII", data)
    assert magic in (0xA1B2C3D4, 0xA1B23C4D) and link == 1, "not a pcap of Ethernet of this byte order"
    packets, at = [], 24
    while at < len(data):
        seconds, fraction, kept, length = struct.unpack_from("<IIII", data, at)
        packets.append([(seconds, fraction), length, data[at + 16 : at + 16 + kept]])
        at += 16 + kept
    return magic, snaplen, packets


def write(path, magic, snaplen, packets, link=1, order="<"):
    with open(path, "wb") as out:
        out.write(struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, snaplen, link))
        for (seconds, fraction), length, data in packets:
            out.write(struct.pack(order + "IIII", seconds, fraction, len(data), length) + data)


def null(data):
    # The address family in the byte order of the machine that recorded: 30 is AF_INET6 of Darwin.
    family = {0x0800: 2, 0x86DD: 30}[struct.unpack_from(">H", data, 12)[0]]
    return struct.pack("<I", family) + data[14:]


def vlan(packets):
    """Both directions of a connection get the same tags: others would be another network."""
    ports, result = [], []
    for at, length, data in packets:
        tags = struct.pack(">HH", 0x8100, 7)
        if data[12:14] == b"\x08\x00":
            pair = set(struct.unpack_from(">HH", data, 34))
            if pair not in ports:
                ports.append(pair)
            if ports.index(pair) % 2:
                tags = struct.pack(">HH", 0x88A8, 100) + tags
        result.append([at, length + len(tags), data[:12] + tags + data[12:]])
    return result


def payload(data):
    """The source port and the length of the TCP payload of an IPv4 frame."""
    words = (data[14] & 15) * 4
    total = struct.unpack_from(">H", data, 16)[0]
    tcp = 14 + words
    return struct.unpack_from(">H", data, tcp)[0], total - words - (data[tcp + 12] >> 4) * 4


def disorder(packets, draw):
    times = [packet[0] for packet in packets]
    order = list(range(len(packets)))
    # Handshakes and the heads of requests stay, so that every exchange begins when it began.
    free = [not packet[2][47] & 2 and b"HTTP/1.1\r\n" not in packet[2] for packet in packets]
    for here in range(3, len(order) - 1):
        there = min(here + draw.randint(1, 4), len(order) - 1)
        if draw.random() < 0.3 and free[here] and free[there]:
            order[here], order[there] = order[there], order[here]
    result = []
    for time, index in zip(times, order, strict=True):
        packet = [time, *packets[index][1:]]
        result.append(packet)
        if payload(packet[2])[1] > 0 and draw.random() < 0.15:
            result.append(packet)
    return result


def lose(packets, draw):
    # Not the heads: what a lost head leaves is a question of policy, not of fact.
    full = [
        i
        for i, p in enumerate(packets)
        if payload(p[2])[0] == 8080 and payload(p[2])[1] > 1000 and b"HTTP/1.1" not in p[2]
    ]
    lost = set(draw.sample(full, 4))
    for i in sorted(lost):
        print("left out: packet", i + 1, "with", payload(packets[i][2])[1], "bytes")
    return [packet for i, packet in enumerate(packets) if i not in lost]


def main():
    kind, source, target = sys.argv[1:4]
    draw = random.Random(int(sys.argv[4]) if len(sys.argv) > 4 else 1)
    magic, snaplen, packets = read(source)
    link, order = 1, "<"
    if kind == "null":
        link, packets = 0, [[at, length - 10, null(data)] for at, length, data in packets]
    elif kind == "big-endian":
        order = ">"
    elif kind == "vlan":
        packets = vlan(packets)
    elif kind == "disorder":
        packets = disorder(packets, draw)
    elif kind == "lose":
        packets = lose(packets, draw)
    else:
        sys.exit(__doc__)
    write(target, magic, snaplen, packets, link, order)


main()
