"""What `compare` and `shapes` run: source files, servers on their CPUs, publishers and loads. All that is
started ends with its block, and what it says is in a file of `OUT`."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCES = ROOT / "target" / "sources"
# Of results, configurations and logs: target/compare or target/shapes.
OUT = ROOT / "target" / pathlib.Path(sys.argv[0]).name
# RILLCAST is a built binary to take as it is.
GIVEN = os.environ.get("RILLCAST")
BINARY = pathlib.Path(GIVEN or ROOT / "target" / "release" / "rillcast").resolve()
HTTP, RTMP, RTSP, NGINX = 28080, 21935, 28554, 22935
OURS = f"rtmp://127.0.0.1:{RTMP}/live/s{{i}}"
THEIRS = f"rtmp://127.0.0.1:{NGINX}/live/s{{i}}"
FLV = f"http://127.0.0.1:{HTTP}/live/s{{i}}.live.flv"
SECRET = "compare"
# Seconds that a run may take beside those that are measured, that a process has for its start and its
# end, and after which a publisher ends that nobody stops.
WAIT, PROMPT, PUBLISH_MAX = 60, 10, 900
SOURCE_SECONDS = 20
# Of one CPU: what other work may take beside a load.
OTHER_WORK_MAX = 0.03
# The parent of the kernel's threads, which work for us too.
KERNEL_THREADS = 2

NGINX_CONF = """
worker_processes 1; daemon off; pid {out}/nginx.pid; error_log {out}/nginx-errors.log error;
load_module /usr/lib/nginx/modules/ngx_rtmp_module.so;
worker_rlimit_nofile 20000;
events {{ worker_connections 10000; }}
rtmp {{ server {{ listen 127.0.0.1:{port}; {settings} access_log off;
  application live {{ live on; wait_key on; interleave on; }} }} }}
"""

# As it is by default, and as its users tune it.
NGINX_DEFAULT = "chunk_size 4096;"
# out_cork holds for streams with a buffer alone.
NGINX_TUNED = "chunk_size 65536; out_cork 8; out_queue 1024; buffer 1s;"

# Name, size, video bit rate, audio bit rate: the streams of the design's measurements, and by their Mbit/s.
KINDS = {"720p": ("1280x720", "2000k", "128k"), "360p": ("640x360", "450k", "96k"),
         "4m": ("1280x720", "4200k", "128k"), "10m": ("1280x720", "9900k", "128k"),
         "17m": ("1280x720", "16900k", "128k")}


def source(name):
    """Some seconds of H.264 with a keyframe each 2 s and AAC, made once."""
    path = SOURCES / f"{name}.flv"
    if not path.exists():
        SOURCES.mkdir(parents=True, exist_ok=True)
        size, video, audio = KINDS[name]
        rate = int(video[:-1])
        unfinished = path.with_suffix(".part")
        subprocess.run(
            ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", f"testsrc2=s={size}:r=25",
             "-f", "lavfi", "-i", "sine=frequency=440:sample_rate=44100", "-t", str(SOURCE_SECONDS),
             "-c:v", "libx264", "-preset", "veryfast", "-b:v", video, "-maxrate", video,
             "-bufsize", f"{2 * rate}k", "-nal-hrd", "cbr", "-g", "50", "-bf", "0",
             "-c:a", "aac", "-b:a", audio, "-f", "flv", "-y", str(unfinished)], check=True)
        unfinished.rename(path)
    return path


class Server(NamedTuple):
    name: str
    command: list
    ports: tuple
    # Where RTMP is published to.
    rtmp: str


def pinned(cpus, command):
    """With all threads that it starts, also those that it does not pin itself."""
    return ["taskset", "-c", cpus, *command]


def rillcast(config="", shards=1, cpus="0"):
    (OUT / "rillcast.toml").write_text(config)
    command = pinned(cpus, [
        str(BINARY), "serve", "--config", str(OUT / "rillcast.toml"), "--shards", str(shards),
        "--cpus", cpus, "--http", f"127.0.0.1:{HTTP}", "--rtmp", f"127.0.0.1:{RTMP}",
        "--rtsp", f"127.0.0.1:{RTSP}", "--secret", SECRET, "--log", "warn"])
    return Server("rillcast", command, (HTTP, RTMP, RTSP), OURS)


def nginx(settings=NGINX_DEFAULT):
    (OUT / "nginx.conf").write_text(NGINX_CONF.format(out=OUT, port=NGINX, settings=settings))
    return Server("nginx", pinned("0", ["nginx", "-c", str(OUT / "nginx.conf")]), (NGINX,), THEIRS)


def load(what, *options):
    """The load generator; numbers and paths may be among the options."""
    return [str(BINARY), "load", what, *map(str, options)]


class Started:
    """A process that ends with the block, by the signal it likes, and with it all that it has started."""

    def __init__(self, name, command, stop=signal.SIGTERM):
        self.name, self.command, self.stop = name, command, stop
        self.log = OUT / f"{name}.log"

    def __enter__(self):
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, start_new_session=True)
        return self

    def __exit__(self, *_):
        self.ended_before = self.has_ended()
        try:
            self.process.send_signal(self.stop)
            self.process.wait(PROMPT)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def has_ended(self):
        return self.process.poll() is not None

    def last_line(self):
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "no word"

    def faults(self):
        """When it has ended: that it did so by itself, or badly."""
        code = self.process.returncode
        if code == 0 and not self.ended_before:
            return []
        early = "too early " if self.ended_before else ""
        return [f"{self.name} ended {early}with {code}: {self.last_line()}"]


class Relay:
    """A server on ports that were free, and its publishers. What went wrong with them is in `faults` when
    the block has ended, and in the error that it ended with."""

    def __init__(self, server):
        self.server, self.parts, self.faults = server, [], []

    def __enter__(self):
        ports = self.server.ports
        expect_free(ports)
        with contextlib.ExitStack() as opened:
            process = opened.enter_context(Started(self.server.name, self.server.command))
            within(PROMPT, lambda: process.has_ended() or all(map(answers, ports)))
            if process.has_ended() or not all(map(answers, ports)):
                raise RuntimeError(f"{process.name} does not start: {process.last_line()}")
            self.parts, self.pid = [process], process.process.pid
            self.open = opened.pop_all()
        return self

    def __exit__(self, _, error, __):
        self.open.close()
        self.faults += [fault for part in self.parts for fault in part.faults()]
        if isinstance(error, Exception) and self.faults:
            raise RuntimeError("; ".join([str(error), *self.faults])) from error

    def publish(self, name, streams=1, first=0, url=None):
        """Waits until all are there: many begin spread over a round of the file."""
        command = load("publish", "--file", source(name), "--url", url or self.server.rtmp, "--streams",
                       streams, "--first", first, "--cpus", 1, "--duration", PUBLISH_MAX)
        part = Started(f"publisher-{len(self.parts)}", command, signal.SIGINT)
        self.parts.append(self.open.enter_context(part))
        time.sleep(3 if streams == 1 else SOURCE_SECONDS + 2)
        if any(part.has_ended() for part in self.parts):
            raise RuntimeError("the streams do not come up")


def expect_free(ports=(HTTP, RTMP, RTSP, NGINX)):
    """A server of the run before may still be ending."""
    if not within(PROMPT, lambda: not any(map(answers, ports))):
        taken = [port for port in ports if answers(port)]
        sys.exit(f"ports that we need are taken, by a server left over? {taken}")


def answers(port):
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def within(seconds, holds):
    """Whether it holds before so many seconds are over."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


class Load(Started):
    """A load, its report, and what other work the machine had meanwhile."""

    def __init__(self, command, time_max, name="load"):
        self.json, self.time_max = OUT / f"{name}.json", time_max
        super().__init__(name, [*command, "--json", str(self.json)])

    def __enter__(self):
        self.json.unlink(missing_ok=True)
        self.others = OtherWork()
        return super().__enter__()

    def report(self):
        """When it is over; its complaints are in it."""
        self.process.wait(self.time_max)
        if not self.json.exists():
            raise RuntimeError(f"no report, exit code {self.process.returncode}: {self.last_line()}")
        report = json.loads(self.json.read_text())
        server = report.get("server", {"cpu_s": None}) or {}
        if "--pid" in self.command and "server" in report and not server.get("cpu_s"):
            report["faults"].append("no CPU time of the server: it did not run, or another one served")
        report["other_work"] = self.others.share()
        report["faults"] += self.others.faults()
        return report


def measured(command, time_max):
    """The report of a load."""
    with Load(command, time_max) as process:
        return process.report()


class OtherWork:
    """CPU time that was not ours since it was made: of all processes but ours with their children that have
    ended, and what a host kept from a virtual machine."""

    def __init__(self):
        self.start, self.ticks = time.monotonic(), ticks_of_others()

    def share(self):
        """Of one CPU."""
        seconds = (ticks_of_others() - self.ticks) / os.sysconf("SC_CLK_TCK")
        return max(0, seconds) / (time.monotonic() - self.start)

    def faults(self):
        share = self.share()
        return [f"other work took {share:.0%} of a CPU"] if share > OTHER_WORK_MAX else []


def ticks_of_others():
    parents, ticks = {}, {}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        # It may end while we read.
        with contextlib.suppress(OSError):
            fields = stat.read_text().rsplit(")", 1)[1].split()
            pid = int(stat.parent.name)
            parents[pid], ticks[pid] = int(fields[1]), sum(map(int, fields[11:15]))
    ours = (os.getpid(), KERNEL_THREADS)

    def is_ours(pid):
        while pid not in ours and pid in parents:
            pid = parents[pid]
        return pid in ours
    stolen = int(pathlib.Path("/proc/stat").read_text().split()[8])
    return stolen + sum(spent for pid, spent in ticks.items() if not is_ours(pid))
