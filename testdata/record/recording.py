"""One case under way: what runs beside the capture, the capture, and the README that says so."""

import contextlib
import datetime
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
CASES_DIR = HERE.parent / "pcaps"
PEERS = HERE / "peers"
PYTHON = os.environ.get("RECORD_PYTHON", sys.executable)
TARGET_DIR = pathlib.Path(os.environ.get("TARGET_DIR", HERE.parents[1] / "target" / "debug"))
VERSIONS = {
    "curl": (["curl", "--version"], r"curl [\d.]+"),
    "nginx": (["nginx", "-v"], r"nginx/[\d.]+"),
    "nghttp": (["nghttp", "--version"], r"nghttp2/[\d.]+"),
    "nghttpd": (["nghttpd", "--version"], r"nghttp2/[\d.]+"),
    "nghttpx": (["nghttpx", "--version"], r"nghttp2/[\d.]+"),
    "h2load": (["h2load", "--version"], r"nghttp2/[\d.]+"),
    "haproxy": (["haproxy", "-v"], r"version [\d.]+"),
    "wrk": (["wrk", "-v"], r"wrk \S+"),
    "hey": (["dpkg-query", "-W", "hey"], r"[\d.]+\S*"),
    "node": (["node", "--version"], r"v[\d.]+"),
    "openssl": (["openssl", "version"], r"OpenSSL [\d.]+"),
    "python": ([PYTHON, "--version"], r"Python [\d.]+"),
    "tcpdump": (["tcpdump", "--version"], r"tcpdump version [\d.]+"),
    "dumpcap": (["dumpcap", "--version"], r"Dumpcap \(Wireshark\) [\d.]+"),
    "editcap": (["editcap", "--version"], r"\(Wireshark\) [\d.]+"),
    "gzip": (["gzip", "--version"], r"gzip [\d.]+"),
    "zstd": (["zstd", "--version"], r"v[\d.]+"),
    "apache2": (["apache2", "-v"], r"Apache/[\d.]+"),
    "caddy": (["caddy", "version"], r"[\d.]+"),
    "lighttpd": (["lighttpd", "-v"], r"lighttpd/[\d.]+"),
    "varnishd": (["varnishd", "-V"], r"varnish-[\d.]+"),
    "wget": (["wget", "--version"], r"Wget [\d.]+"),
    "ab": (["ab", "-V"], r"Version [\d.]+"),
    "php": (["php", "--version"], r"PHP [\d.]+"),
    "perl": (["perl", "--version"], r"v[\d.]+"),
    "ruby": (["ruby", "--version"], r"ruby [\d.]+"),
    "java": (["java", "--version"], r"openjdk [\d.]+"),
    "concert": ([str(TARGET_DIR / "concert"), "--version"], r"concert [\d.]+"),
}


class Recording:
    """One case under way: its servers, its capture, and what was run."""

    def __init__(self, name, work):
        self.folder, self.work = CASES_DIR / name, work
        self.commands, self.programs, self.running, self.file = [], set(), [], None
        self.tape, self.n_logs = None, 0
        self.folder.mkdir(exist_ok=True)
        for old in self.folder.glob("input.*"):
            old.unlink()

    def note(self, argv, prefix=""):
        """Puts a command into the README, with names that hold elsewhere."""
        names = {
            PYTHON: "python3",
            str(self.work): "$WORK",
            str(TARGET_DIR) + "/": "",
            str(PEERS): "peers",
            str(HERE) + "/": "",
            str(self.folder) + "/": "",
        }
        words = []
        for word in map(str, argv):
            for name, known in names.items():
                word = word.replace(name, known)
            words.append(word if word.startswith("$WORK") else shlex.quote(word))
        program = words[0]
        self.programs.add(
            "python" if program == "python3" else "concert" if program.startswith("concert") else program
        )
        text = " ".join(words)
        self.commands.append(prefix + (text if len(text) < 2000 else text[:400] + " [...] " + text[-100:]))

    def start(self, argv, ready, namespace=None):
        """Starts what runs until the end; `ready` is a port, or text on its output."""
        self.note(argv, f"ip netns exec {namespace} " if namespace else "")
        self.commands[-1] += " &"
        inside = ["ip", "netns", "exec", namespace] if namespace else []
        self.n_logs += 1
        log = open(self.work / f"log-{self.n_logs}", "w+b")
        process = subprocess.Popen(
            inside + [str(word) for word in argv], stdout=log, stderr=subprocess.STDOUT, cwd=self.work
        )
        self.running.append(process)
        return self.await_ready(process, pathlib.Path(log.name), ready, namespace)

    def await_ready(self, process, log, ready, namespace=None):
        for _ in range(1000):
            if isinstance(ready, str):
                if found := re.search(ready, log.read_text(errors="replace")):
                    return found
            elif listens(ready, namespace):
                return None
            if process.poll() is not None:
                break
            time.sleep(0.01)
        sys.exit(f"{process.args} did not get ready: {log.read_text(errors='replace')}")

    def run(self, *argv, codes=(0,), wait=True, **options):
        """Runs a client. Its output goes to the log for the eye."""
        self.note(argv)
        done = subprocess.run(
            [str(word) for word in argv], cwd=self.work, capture_output=True, timeout=60, **options
        )
        print("   ", self.commands[-1][:150], "->", done.returncode, (done.stdout + done.stderr)[-300:])
        if done.returncode not in codes:
            sys.exit(f"{argv} ended with {done.returncode}")

    def capture(self, *options, file="input.pcap", tool="tcpdump", interface="lo"):
        """Starts the capture and waits until packets are being kept."""
        self.file = self.work / file
        if tool == "tcpdump":
            argv = [
                "tcpdump",
                "-i",
                interface,
                "-n",
                "-U",
                "--immediate-mode",
                "-B",
                "65536",
                "-w",
                self.file,
                *options,
            ]
            ready = "listening on"
        else:
            argv = ["dumpcap", "-q", "-n", *options, "-w", self.file]
            ready = "File: "
        self.tape_log = self.work / f"log-{self.n_logs + 1}"
        self.start(argv, ready)
        self.tape = self.running.pop()

    def stop_capture(self):
        """Ends the capture once no packet has come for a while."""
        size, still = -1, 0
        while still < 8:
            time.sleep(0.05)
            now = self.file.stat().st_size
            size, still = now, still + 1 if now == size else 0
        if self.tape.poll() is None:
            self.tape.send_signal(signal.SIGINT)
        self.tape.wait(10)
        self.tape = None
        said = self.tape_log.read_text()
        drops = re.findall(r"(\d+) packets? dropped", said) + re.findall(
            r"dropped on interface .*?: \d+/(\d+)", said
        )
        if not drops or any(map(int, drops)):
            sys.exit(f"the capture lost packets, or does not say: {said}")

    def keep(self, file=None):
        """Makes a file the input of the case."""
        file = file or self.file
        suffix = "".join(pathlib.Path(file).suffixes)
        shutil.copy(file, self.folder / ("input" + suffix))

    def end(self):
        for process in reversed(self.running):
            process.terminate()
        for process in self.running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            process.kill()

    def write_readme(self, name, purpose, notes):
        versions = []
        for program in sorted(self.programs - {"ip", "rewrite.py", "cp"}):
            argv, pattern = VERSIONS[program]
            done = subprocess.run(argv, capture_output=True, text=True)
            versions.append(
                f"{program} ({re.search(pattern, done.stdout + done.stderr)[0].split()[-1].split('/')[-1]})"
            )
        corrections = self.folder / "corrections.json"
        corrected = ""
        if corrections.exists():
            corrected = "\n## Corrected by hand\ntshark does not say this, or says it wrong; `oracle.py` applies it (`corrections.json`).\n"
            for entry in json.loads(corrections.read_text()):
                corrected += f"- {entry['why']}\n"
        date = datetime.datetime.now(datetime.timezone.utc).date()
        commands = "\n".join(self.commands)
        (self.folder / "README.md").write_text(
            f"# {name}\n\n{purpose}\n{notes and chr(10) + notes + chr(10)}\n"
            f"## Provenance\nRecorded here on {date} by `testdata/record/record.py {name}` with {', '.join(versions)}. "
            f"No traffic of anybody else is in it. Licence: Apache-2.0.\n\n```sh\n{commands}\n```\n{corrected}"
        )


def listens(port, namespace):
    argv = ["ip", "netns", "exec", namespace] if namespace else []
    table = subprocess.run(
        [*argv, "cat", "/proc/self/net/tcp", "/proc/self/net/tcp6"], capture_output=True, text=True
    )
    return any(f":{port:04X} " in line and " 0A " in line for line in table.stdout.splitlines())


@contextlib.contextmanager
def namespace(r):
    """A second namespace behind a virtual Ethernet link: 10.8.0.1 here, 10.8.0.2 there."""
    name = f"tapedeck{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        r.commands.append("ip netns add other")
        for command in (
            "link add veth0 type veth peer name veth1 netns {}",
            "addr add 10.8.0.1/24 dev veth0",
            "link set veth0 up",
            "-n {} addr add 10.8.0.2/24 dev veth1",
            "-n {} link set veth1 up",
            "-n {} link set lo up",
        ):
            r.commands.append("ip " + command.format("other"))
            subprocess.run(["ip", *command.format(name).split()], check=True)
        yield name
        if r.tape is not None:
            r.stop_capture()
            r.keep()
    finally:
        r.commands = [command.replace(name, "other") for command in r.commands]
        r.end()
        subprocess.run(["ip", "netns", "del", name], check=True)


def rewrite(r, kind, *seed, keep=True):
    r.stop_capture()
    raw = r.file.with_name("raw.pcap")
    r.run("cp", r.file, raw)
    r.run(PYTHON, HERE / "rewrite.py", kind, raw, r.file, *seed)
    if keep:
        r.keep()


def keep_whole(r, file):
    """Keeps the capture before it was spoilt, for the oracle only: tshark loses its way in it."""
    r.run("zstd", "-q", "-19", file, "-o", r.folder / "whole.pcap.zst", "-f")
