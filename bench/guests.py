"""Guests of the test bed for the benchmarks that need a running machine."""
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LEEWARD = os.environ.get("LEEWARD", os.path.join(ROOT, "target/release/leeward"))
BED = os.path.join(os.environ.get("TESTBED_DIR", "/var/tmp/testbeds"), "vm")
MACHINE = ["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-machine", "pc", "-accel",
           "tcg,thread=multi,tb-size=256", "-cpu", "max"]


def demand(*images):
    """Ends the benchmark, saying so, when something that it needs is absent."""
    for tool in ["qemu-system-x86_64", "qemu-img", "cp"]:
        if not shutil.which(tool):
            skip(f"{tool} is not installed")
    for image in images:
        if not os.path.exists(os.path.join(BED, "images", image)):
            skip(f"no {image} in {BED}/images; build the test bed")
    if not os.path.exists(LEEWARD):
        sys.exit(f"{LEEWARD} is not there: cargo build --release")


def skip(why):
    print(f"SKIPPED: {why}")
    sys.exit(0)


def run(*command):
    """The output of a command that must succeed."""
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{command} failed with {done.returncode}")
    return done.stdout


class Panic(Exception):
    """The guest's kernel gave up: emulated, it does now and then, when the machine is so busy that its timer stands still."""


class Guest:
    """A machine under QEMU with a console, and a monitor in `directory`."""

    def __init__(self, directory, arguments, memory=512):
        os.makedirs(directory, exist_ok=True)
        self.directory = directory
        for name in ["qmp", "serial", "console"]:
            if os.path.exists(self.path(name)):
                os.unlink(self.path(name))
        console = f"socket,path={self.path('serial')},server=on,wait=off,id=c0,logfile={self.path('console')}"
        command = ["qemu-system-x86_64", *MACHINE, "-m", str(memory), "-chardev", console, "-serial", "chardev:c0",
                   "-qmp", f"unix:{self.path('qmp')},server=on,wait=off", *arguments]
        self.typing = None
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def path(self, name):
        return os.path.join(self.directory, name)

    def console(self):
        """All that came on the console."""
        # Nobody else reads what also comes to who types; unread, it stops the guest after a few hundred characters.
        try:
            while self.typing and self.typing.recv(1 << 16, socket.MSG_DONTWAIT):
                pass
        except BlockingIOError:
            pass
        try:
            with open(self.path("console"), "rb") as log:
                return log.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def wait_for(self, words, limit):
        """Waits until one of the words is on the console."""
        deadline = time.monotonic() + limit
        while not any(word in self.console() for word in words):
            if "Kernel panic" in self.console():
                raise Panic(self.console()[-300:])
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                sys.exit(f"{words} did not come on the console:\n{self.console()[-2000:]}")
            time.sleep(0.02)

    def type_line(self, line):
        if not self.typing:
            self.typing = socket.socket(socket.AF_UNIX)
            self.typing.connect(self.path("serial"))
        data = (line + "\n").encode()
        for start in range(0, len(data), 16):  # the guest's terminal has a small buffer
            self.typing.sendall(data[start:start + 16])
            time.sleep(0.01)

    def stop(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def tiny_kernel():
    """Arguments that start the small guest by its kernel."""
    boot = os.path.join(BED, "boot")
    return ["-kernel", f"{boot}/vmlinuz", "-initrd", f"{boot}/tiny.cpio.gz",
            "-append", "console=ttyS0 quiet mitigations=off panic=-1"]


class Export:
    """A running `leeward export` of one snapshot."""

    def __init__(self, repository, snapshot, directory, *options):
        path = os.path.join(directory, "nbd")
        self.process = subprocess.Popen([LEEWARD, "--json", "export", "-r", repository, snapshot, "--listen",
                                         f"unix:{path}", *options], stdout=subprocess.PIPE, text=True)
        self.listening = json.loads(self.process.stdout.readline())["listening"][0]
        self.drive = (f"file.driver=nbd,file.export={self.listening['name']},file.server.type=unix,"
                      f"file.server.path={path},format=raw,if=virtio,snapshot=on")

    def stop(self):
        """Ends it; returns its report."""
        self.process.send_signal(signal.SIGINT)
        lines = self.process.communicate()[0].splitlines()
        return next(json.loads(line)["served"] for line in lines if '"served"' in line)


def median(values):
    return statistics.median(values)
