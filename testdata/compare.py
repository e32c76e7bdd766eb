#!/usr/bin/env python3
"""Compares what `tapedeck import` and tshark (oracle.py) find in any captures, such as those of others.

Usage: compare.py [--program TAPEDECK] CAPTURE...     exit code 1 where something differs

Of every exchange: method, authority, path, status and the lengths of both bodies. A difference is not
yet a mistake of ours: tshark says nothing of an answer that was cut off, does not speak HTTP/2 that it
sees from the middle on, and pairs by order where packets were lost. Look at each."""

import argparse
import collections
import json
import pathlib
import subprocess
import sys
import tempfile

KEYS = ("method", "authority", "path", "status", "request_body_len", "response_body_len")
ORACLE = pathlib.Path(__file__).with_name("oracle.py")
SECONDS = 300


def counted(lines):
    return collections.Counter(tuple(json.loads(line).get(key) for key in KEYS) for line in lines)


def run(*words):
    return subprocess.run(words, capture_output=True, timeout=SECONDS, check=False)


def of_tapedeck(program, capture, folder):
    archive = str(pathlib.Path(folder, "compared.tape"))
    done = run(program, "import", capture, "-o", archive, "--force")
    if b"panicked" in done.stderr:
        raise RuntimeError(done.stderr.decode())
    # 1: nothing was found, or nothing can be read; then there may be no archive.
    return run(program, "ls", archive, "--format", "json").stdout.splitlines()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", default="target/debug/tapedeck")
    parser.add_argument("captures", nargs="+")
    arguments = parser.parse_args()
    same, different, unread, exchanges = 0, 0, 0, 0
    for capture in arguments.captures:
        with tempfile.TemporaryDirectory() as folder:
            ours = counted(of_tapedeck(arguments.program, capture, folder))
        oracle = run(sys.executable, str(ORACLE), "--capture", capture)
        if oracle.returncode != 0:
            print(f"{capture}: tshark or its reading failed; ours are {ours.total()}")
            unread += 1
            continue
        theirs = counted(oracle.stdout.splitlines())
        exchanges += theirs.total()
        if ours == theirs:
            same += 1
            continue
        different += 1
        print(f"{capture}: tshark {theirs.total()}, ours {ours.total()}")
        for mark, these in (("-", theirs - ours), ("+", ours - theirs)):
            for exchange, count in these.items():
                print(f"  {mark} {count} x {exchange}")
    print(f"{same} captures the same, {different} different, {unread} that the oracle cannot read; {exchanges} exchanges")
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
