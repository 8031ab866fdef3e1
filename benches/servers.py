"""What `compare` and `shapes` share: source files, servers on their CPUs, loads, rounds and tables."""

import argparse
import http.client
import json
import os
import pathlib
import platform
import signal
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "target" / "compare"
BINARY = ROOT / "target" / "release" / "rillcast"
HTTP, RTMP, RTSP, NGINX = 28080, 21935, 28554, 22935
SECRET = "compare"
# Seconds that a run may take beside those that are measured.
WAIT = 60
SOURCE_SECONDS = 20

NGINX_CONF = """
worker_processes 1; daemon off; pid {out}/nginx.pid; error_log {out}/nginx.log error;
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
SOURCES = {"720p": ("1280x720", "2000k", "128k"), "360p": ("640x360", "450k", "96k"),
           "4m": ("1280x720", "4200k", "128k"), "10m": ("1280x720", "9900k", "128k"),
           "17m": ("1280x720", "16900k", "128k")}


def source(name):
    """Some seconds of H.264 with a keyframe each 2 s and AAC, made once."""
    path = OUT / f"{name}.flv"
    if not path.exists():
        size, video, audio = SOURCES[name]
        rate = int(video[:-1])
        subprocess.run(
            ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", f"testsrc2=s={size}:r=25",
             "-f", "lavfi", "-i", "sine=frequency=440:sample_rate=44100", "-t", str(SOURCE_SECONDS),
             "-c:v", "libx264", "-preset", "veryfast", "-b:v", video, "-maxrate", video,
             "-bufsize", f"{2 * rate}k", "-nal-hrd", "cbr", "-g", "50", "-bf", "0",
             "-c:a", "aac", "-b:a", audio, "-y", str(path)], check=True)
    return path


def pinned(cpus, command):
    """With all threads that it starts, also those that it does not pin itself."""
    return ["taskset", "-c", cpus, *command]


def rillcast(config="", shards=1, cpus="0"):
    (OUT / "rillcast.toml").write_text(config)
    return pinned(cpus, [
        str(BINARY), "serve", "--config", str(OUT / "rillcast.toml"), "--shards", str(shards),
        "--cpus", cpus, "--http", f"127.0.0.1:{HTTP}", "--rtmp", f"127.0.0.1:{RTMP}",
        "--rtsp", f"127.0.0.1:{RTSP}", "--secret", SECRET, "--log", "warn"])


def nginx(settings=NGINX_DEFAULT):
    (OUT / "nginx.conf").write_text(NGINX_CONF.format(out=OUT, port=NGINX, settings=settings))
    return pinned("0", ["nginx", "-c", str(OUT / "nginx.conf")])


def load(what, *options):
    """The load generator; numbers and paths may be among the options."""
    return [str(BINARY), "load", what, *map(str, options)]


def publisher(name, url, streams, first=0):
    return load("publish", "--file", source(name), "--url", url, "--streams", streams,
                "--first", first, "--cpus", 1)


class Started:
    """A process that is stopped by the signal it likes when the block ends."""

    def __init__(self, command, stop=signal.SIGTERM):
        self.command, self.stop = command, stop

    def __enter__(self):
        self.process = subprocess.Popen(
            self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return self.process

    def __exit__(self, *_):
        self.process.send_signal(self.stop)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()


def run_bounded(command, time_max, **more):
    """Runs it to its end; what it has started ends with it when it takes too long."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
                          **more) as process:
        try:
            out, errors = process.communicate(timeout=time_max)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, errors)


def measured(command, time_max):
    """The report of a load; its complaints are in it."""
    done = run_bounded(command + ["--json", "-"], time_max)
    try:
        report = json.loads(done.stdout)
    except ValueError:
        said = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["nothing"]
        raise RuntimeError(f"no report, exit code {done.returncode}: {said[0]}") from None
    if report.get("server", ()) is None:
        report["faults"].append("the server was not measured")
    return report


def asked(about):
    """The options that all have."""
    options = argparse.ArgumentParser(description=about)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--only", help="a part of the names of the works to run")
    return options


def build(*targets):
    """All that is built is built before anything is measured."""
    for target in targets:
        subprocess.run(["cargo", *target, "--quiet"], cwd=ROOT, check=True)


def machine():
    return f"{platform.processor() or platform.machine()}, Linux {platform.release()}"


def rounds_of(title, runs, rounds):
    """The results of each run by its name, also of those that complained. The order of the rounds alternates;
    what complains is repeated once."""
    results = {name: [] for name in runs}
    for turn in range(rounds):
        order = list(runs) if turn % 2 == 0 else list(reversed(runs))
        for name in order:
            print(f"  {title}: {name}, round {turn + 1}", file=sys.stderr)
            results[name].append(told(runs[name]))
            if results[name][-1]["faults"]:
                print("    once more", file=sys.stderr)
                results[name].append(told(runs[name]))
    return results


def told(run):
    """The result of a run, and what it complains of. One that fails has nothing but its fault."""
    try:
        result = run()
        result.setdefault("faults", [])
    except (OSError, ValueError, LookupError, TypeError, ArithmeticError, RuntimeError,
            http.client.HTTPException, subprocess.SubprocessError) as error:
        result = {"faults": [f"it failed: {type(error).__name__}: {error}"]}
    for fault in result["faults"]:
        print(f"    ! {fault}", file=sys.stderr)
    return result


def counted(runs):
    """Those that a row is made of: without faults but a server's own, where there are any; else all that came
    to an end. A server that stands still has that in its figures."""
    clean = [run for run in runs if all(is_of_server(fault) for fault in run["faults"])]
    return clean or [run for run in runs if len(run) > 1] or runs


def is_of_server(fault):
    return any(part in fault for part in SERVER_FAULTS)


# What `rillcast load` says of a server that does not keep up.
SERVER_FAULTS = ("stalls over 1 s", "had no frame at the end", "players were lost", "did not join",
                 "no video frame came", "broken tags")


def faulty(runs):
    """How many had faults, of how many, as it stands in a table."""
    return f"{sum(bool(run['faults']) for run in runs)} of {len(runs)}"


def values_of(runs, key):
    """Of the runs that came to it."""
    return [run[key] for run in runs if key in run]


def keep(title, rows):
    (OUT / f"{title}.json").write_text(json.dumps(rows, indent=1))


def median(values):
    """None where there is no such figure."""
    return None if None in values or not values else statistics.median(values)


def print_table(heads, rows):
    """Markdown; the cells of each row are texts."""
    print("| " + " | ".join(heads) + " |")
    print("|" + "---|" * len(heads))
    for cells in rows:
        print("| " + " | ".join(cells) + " |", flush=True)
