"""What `compare` and `shapes` share beside what they run: options, builds, the machine, rounds and tables."""

import argparse
import collections
import hashlib
import http.client
import json
import os
import pathlib
import platform
import re
import signal
import statistics
import subprocess
import sys
import time

from servers import BINARY, GIVEN, OUT, ROOT, expect_free


def asked(about):
    """The options that all have. What is started ends with us, also when we are told to stop."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    OUT.mkdir(parents=True, exist_ok=True)
    options = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--only", default="", help="a part of the names of the works to run")
    return options


def stop(number, _):
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def chosen(works, only):
    found = {title: work for title, work in works.items() if only in title}
    return found or sys.exit(f"--only {only}: none of {'; '.join(works)}")


def build():
    """All that is built is built before anything is measured."""
    if not GIVEN:
        subprocess.run(["cargo", "build", "--release", "--quiet"], cwd=ROOT, check=True)
    elif not BINARY.exists():
        sys.exit(f"RILLCAST: there is no {BINARY}")


def build_bench(name):
    """The file of a bench; of a given binary that beside it, None where there is none."""
    if GIVEN:
        files = [path for path in BINARY.parent.glob(f"deps/{name}-*") if not path.suffix]
        return max(files, key=lambda path: path.stat().st_mtime, default=None)
    done = subprocess.run(
        ["cargo", "bench", "--no-run", "--quiet", "--bench", name, "--message-format=json"],
        cwd=ROOT, check=True, stdout=subprocess.PIPE)
    messages = map(json.loads, done.stdout.splitlines())
    return next(message["executable"] for message in messages
                if message["reason"] == "compiler-artifact" and message["target"]["name"] == name)


def machine(options, **more):
    """What the figures depend on."""
    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    congestion = pathlib.Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
        cwd=ROOT, check=False, capture_output=True, text=True).stdout.strip()
    return {
        "commit": f"not known: {BINARY} was given" if GIVEN else commit or "not known",
        "scripts": commit or "not known",
        "binary": "sha256 " + hashlib.sha256(BINARY.read_bytes()).hexdigest()[:12],
        "machine": f"{os.cpu_count()} CPUs, {cpu.group(1) if cpu else platform.machine()}",
        "system": f"Linux {platform.release()}, congestion control {congestion}",
        "rounds": options.rounds,
    } | more


def begin(facts):
    """Shows them, and keeps what starts and watches the load off the server's CPU."""
    expect_free()
    os.sched_setaffinity(0, {1})
    print("\n".join(f"{name}: {value}" for name, value in facts.items()))
    print("server on CPU 0, load on CPU 1, but where something else is said", flush=True)


def rounds_of(title, runs, rounds):
    """The results of each run by its name, also of those that complained. The order of the rounds
    alternates; what complains is repeated once."""
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
    except (OSError, ValueError, LookupError, TypeError, ArithmeticError, RuntimeError,
            http.client.HTTPException, subprocess.SubprocessError) as error:
        result = {"faults": [f"it failed: {type(error).__name__}: {error}"]}
    for fault in result["faults"]:
        print(f"    ! {fault}", file=sys.stderr)
    return result


# Faults by a part of what they say. A server that stands still has that in its figures, and its runs count.
STANDSTILL = "standstill"
KINDS = {
    "stalls over 1 s": STANDSTILL, "had no frame at the end": STANDSTILL,
    "no video frame came": STANDSTILL, "were lost": "lost", "did not join": "not joined",
    "broken tags": "broken", "other work": "other work", "THE CLIENT": "client at its limit",
    "no room in the players' sockets": "client at its limit", "THE PUBLISHER": "publisher late",
    "it failed": "failed", " ended ": "process ended", "no CPU time": "server not seen",
}


def kinds(run):
    """Of its faults."""
    return {kind for fault in run["faults"]
            for kind in [kind for part, kind in KINDS.items() if part in fault] or ["else"]}


def clean(runs):
    return [run for run in runs if kinds(run) <= {STANDSTILL}]


def counted(runs):
    """Those that a row is made of: the clean ones; where there are none, all that did not fail."""
    return clean(runs) or [run for run in runs if len(run) > 1]


def marked(name, runs):
    return name if clean(runs) else f"{name} *"


def faulty(runs):
    """How many had faults, of how many, and how many which, as it stands in a table."""
    found = collections.Counter(kind for run in runs for kind in sorted(kinds(run)))
    which = ", ".join(f"{count} {kind}" for kind, count in found.items())
    return f"{sum(bool(run['faults']) for run in runs)} of {len(runs)}" + (f": {which}" if which else "")


def values_of(runs, key):
    """Of the runs that came to it."""
    return [run[key] for run in runs if run.get(key) is not None]


def median(values):
    """None where there is no such figure."""
    return statistics.median(values) if values else None


def keep(title, facts, rows):
    """All runs of a table, with what they depend on."""
    name = "-".join(re.findall(r"\w+", title)) + time.strftime("-%Y%m%d-%H%M%S.json")
    (OUT / name).write_text(json.dumps({"title": title} | facts | {"rows": rows}, indent=1))
    print(f"  kept in {OUT / name}", file=sys.stderr)


def print_table(heads, rows):
    """Markdown; the cells of each row are texts."""
    print("| " + " | ".join(heads) + " |")
    print("|" + "---|" * len(heads))
    for cells in rows:
        print("| " + " | ".join(cells) + " |")
    if any(cells[0].endswith(" *") for cells in rows):
        print("\n\\* No run was clean: the figures are of those that did not fail.")
    sys.stdout.flush()
