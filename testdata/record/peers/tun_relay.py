"""Joins the tun devices of two network namespaces. Usage: tun_relay.py OTHER_NAMESPACE"""

import ctypes
import fcntl
import os
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
print("joined", flush=True)
other = {here: there, there: here}
while True:
    for ready in select.select([here, there], [], [])[0]:
        os.write(other[ready], os.read(ready, 65536))
