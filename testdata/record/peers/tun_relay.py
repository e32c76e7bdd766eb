"""Joins the tun devices of two network namespaces.

Usage: tun_relay.py OTHER_NAMESPACE [PERCENT SEED]

PERCENT of the packets are lost, half as many come twice, and as many come behind the next one."""

import ctypes
import fcntl
import os
import random
import select
import struct
import subprocess
import sys

TUNSETIFF, IFF_TUN, IFF_NO_PI, CLONE_NEWNET = 0x400454CA, 0x0001, 0x1000, 0x40000000


def tun(name, address):
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name, IFF_TUN | IFF_NO_PI))
    for command in (f"addr add {address} dev tun0", "link set tun0 up"):
        subprocess.run(["ip", *command.split()], check=True)
    return device


here = tun(b"tun0", "10.9.0.1/24")
with open(f"/run/netns/{sys.argv[1]}") as namespace:
    if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET):
        sys.exit(os.strerror(ctypes.get_errno()))
there = tun(b"tun0", "10.9.0.2/24")
percent, seed = map(int, sys.argv[2:] or (0, 0))
draw = random.Random(seed)
print("joined", flush=True)
other = {here: there, there: here}
late = {here: [], there: []}
while True:
    # What waits for a next packet that does not come goes on after a while.
    ready = select.select([here, there], [], [], 0.02)[0]
    for device in ready or other:
        packets = [os.read(device, 65536)] if ready else []
        packets += late[device]
        late[device] = []
        for packet in packets:
            fate = draw.random() * 100 / percent if percent and ready else 99
            if fate < 1:
                continue
            if fate < 2:
                late[device].append(packet)
                continue
            os.write(other[device], packet)
            if fate < 2.5:
                os.write(other[device], packet)
