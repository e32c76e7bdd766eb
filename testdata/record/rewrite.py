"""Makes of a real capture what this machine cannot record.

Usage: rewrite.py KIND IN.pcap OUT.pcap [SEED]

KIND  null        BSD loopback (link type 0), as macOS records it
      big-endian  the file's own numbers in the other byte order
      vlan        an 802.1Q tag on every frame; a second one (802.1ad outside) on every other connection
      disorder    segments swapped with a near one, some twice; times stay where they were
      big-endian-pcapng   the same for the blocks of a pcapng file
      lose-data   three segments that lie within HTTP/2 DATA towards the client left out
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


def http2_data(packets):
    """The packets towards the client that hold nothing but the inside of one DATA frame."""
    start, stream, inside = None, b"", []
    for index, (_, _, data) in enumerate(packets):
        port, size = payload(data)
        tcp = 14 + (data[14] & 15) * 4
        number = struct.unpack_from(">I", data, tcp + 4)[0]
        if port != 8080:
            continue
        if data[tcp + 13] & 2:
            start = number + 1
        elif size and number - start == len(stream):
            inside.append((index, len(stream), size))
            stream += data[-size:]
    frames, at = [], 0
    while at + 9 <= len(stream):
        length = int.from_bytes(stream[at : at + 3], "big")
        if stream[at + 3] == 0:
            frames.append((at + 9, at + 9 + length, int.from_bytes(stream[at + 5 : at + 9], "big")))
        at += 9 + length
    return [
        (index, size, number)
        for index, begin, size in inside
        for first, last, number in frames
        if first <= begin and begin + size <= last
    ]


def lose_data(packets, draw):
    lost = draw.sample(http2_data(packets), 3)
    for index, size, stream in sorted(lost):
        print("left out: packet", index + 1, "with", size, "bytes of stream", stream)
    lost = {index for index, _, _ in lost}
    return [packet for index, packet in enumerate(packets) if index not in lost]


def swapped(body, sizes):
    """The numbers at the beginning of a block's body in the other byte order."""
    at, result = 0, b""
    for size in sizes:
        result, at = result + body[at : at + size][::-1], at + size
    return result, at


def swap_options(options):
    # Those whose values are numbers: speed, flags, and the counters of a statistics block.
    at, result = 0, b""
    while at < len(options):
        code, length = struct.unpack_from("<HH", options, at)
        value = options[at + 4 : at + 4 + -(-length // 4) * 4]
        if code in (4, 5, 6, 7, 8) and length == 8:
            value = value[::-1]
        elif code in (2, 3) and length == 8:
            value = value[:4][::-1] + value[4:][::-1]
        elif code == 2 and length == 4:
            value = value[::-1]
        result += struct.pack(">HH", code, length) + value
        at += 4 + len(value)
    return result


def swap_pcapng(data):
    fixed = {0x0A0D0D0A: (4, 2, 2, 8), 1: (2, 2, 4), 5: (4, 4, 4), 6: (4, 4, 4, 4, 4)}
    at, result = 0, b""
    while at < len(data):
        kind, length = struct.unpack_from("<II", data, at)
        numbers, behind = swapped(data[at + 8 : at + length - 4], fixed[kind])
        rest = data[at + 8 + behind : at + length - 4]
        kept = -(-struct.unpack_from("<I", data, at + 20)[0] // 4) * 4 if kind == 6 else 0
        options = rest[kept:]
        result += struct.pack(">II", kind, length) + numbers + rest[:kept]
        result += swap_options(options) + struct.pack(">I", length)
        at += length
    return result


def main():
    kind, source, target = sys.argv[1:4]
    if kind == "big-endian-pcapng":
        with open(source, "rb") as raw, open(target, "wb") as out:
            out.write(swap_pcapng(raw.read()))
        return
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
    elif kind == "lose-data":
        packets = lose_data(packets, draw)
    elif kind == "lose":
        packets = lose(packets, draw)
    else:
        sys.exit(__doc__)
    write(target, magic, snaplen, packets, link, order)


main()
