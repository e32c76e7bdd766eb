#!/usr/bin/env python3
"""Records the cases of testdata/pcaps again.

Usage: record.py --list | --index | --all | CASE...

--index writes the table of testdata/pcaps/README.md.

Needs root (every case runs in a network namespace of its own, so nothing else is on the wire), and
curl, nginx, nghttp2-client, nghttp2-server, nghttp2-proxy, haproxy, wrk, hey, nodejs, openssl,
tcpdump, tshark and zstd; apache2, apache2-utils, lighttpd, varnish, caddy, wget, php-cli, ruby,
libwww-perl and a JDK. `RECORD_PYTHON` names the Python for the peers that need packages: h2,
grpcio, websockets, aiohttp. `TARGET_DIR` is where `cargo build -p concert` put its programs.

What a case runs, its README says word for word: `peers` is the folder beside this script, `$WORK`
an empty one. After a recording `oracle.py` says what is in it; the difference is read by eye."""

import os
import pathlib
import re
import subprocess
import sys
import tempfile

from tls_cases import CASES
from recording import CASES_DIR, Recording


def record(name):
    function, purpose, notes = CASES[name]
    print(name)
    with tempfile.TemporaryDirectory(prefix="record-") as work:
        os.chmod(work, 0o755)  # nginx's worker is another user.
        r = Recording(name, pathlib.Path(work))
        try:
            function(r)
            if r.tape is not None:
                r.stop_capture()
            if not list(r.folder.glob("input.*")):
                r.keep()
        finally:
            if r.tape is not None:
                r.tape.kill()
            r.end()
        r.write_readme(name, purpose, notes)


def index():
    """Puts the table of the cases into the README that lies beside them."""
    file = CASES_DIR / "README.md"
    text, marker, _ = file.read_text().partition("<!-- record.py --index -->\n")
    rows = ["| case | shows | exchanges | by |", "|---|---|---:|---|"]
    for name, (_, purpose, _) in sorted(CASES.items()):
        readme = (CASES_DIR / name / "README.md").read_text()
        programs = re.search(r"` with (.*?)\. No traffic", readme)[1]
        programs = ", ".join(
            sorted({word for word in re.findall(r"[a-z]\w+", re.sub(r"\(.*?\)", "", programs))})
        )
        count = len((CASES_DIR / name / "expected.jsonl").read_text().splitlines())
        rows.append(f"| [{name}]({name}) | {purpose} | {count} | {programs} |")
    file.write_text(text + marker + "\n".join(rows) + "\n")


def main():
    arguments = sys.argv[1:]
    if arguments == ["--list"]:
        print(*CASES, sep="\n")
    elif arguments == ["--index"]:
        index()
    elif len(arguments) == 2 and arguments[0] == "--inside":
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        record(arguments[1])
    elif arguments:
        for name in CASES if arguments == ["--all"] else arguments:
            if subprocess.run(["unshare", "-n", sys.executable, __file__, "--inside", name]).returncode:
                sys.exit(f"{name} was not recorded")
    else:
        sys.exit(__doc__)


main()
