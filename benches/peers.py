#!/usr/bin/env python3
"""Outcrop beside find, syft and osv-scanner, on the demo's images: peers.py CACHE OUTCROP

Prints what was compared, on what, and the ratio; lists every package and finding on which two programs differ with the
reason, and ends with 1 where a difference has none in `differences.py`. Times are shown and judged against their bar, but
never end the run: they belong to the machine.
"""
import json, os, pathlib, platform, statistics, subprocess, sys, tempfile, time, zipfile

import differences

cache, outcrop = pathlib.Path(sys.argv[1]).resolve(), str(pathlib.Path(sys.argv[2]).resolve())
tools = cache / "tools/bin"
IMAGES = ["debian", "python-app", "node-app", "java-app", "go-app", "layers"]
FEED = pathlib.Path(__file__).parent.parent / "data/feed"
# As OSV names ecosystems, and as osv-scanner names its folders.
ECOSYSTEMS = {"debian": "Debian", "pypi": "PyPI", "npm": "npm", "maven": "Maven", "go": "Go"}

work = pathlib.Path(tempfile.mkdtemp(prefix="outcrop-bench-"))
# Peers keep caches and ask for updates where they are let.
ENV = {"PATH": os.environ["PATH"], "HOME": str(work), "XDG_CACHE_HOME": str(work), "SYFT_CHECK_FOR_APP_UPDATE": "false"}
unexplained = []


def run(command, accept=(0,)):
    """Wall and processor seconds of a command with all its children, and what it printed."""
    with open(work / "out", "w+b") as out, open(work / "err", "w+b") as err:
        start = time.perf_counter()
        child = subprocess.Popen(command, stdout=out, stderr=err, env=ENV)
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode not in accept:
            err.seek(0)
            sys.exit(f"{command} ended with {child.returncode}: {err.read().decode(errors='replace')}")
        out.seek(0)
        return wall, usage.ru_utime + usage.ru_stime, out.read()


def pairs(count, first, second):
    """Two commands, one after the other, `count` times, after one round that is not counted: (wall, cpu) of each."""
    times = ([], [])
    for number in range(count + 1):
        for kept, (command, accept) in zip(times, (first, second)):
            wall, cpu, _ = run(command, accept)
            if number:
                kept.append((wall, cpu))
    return times


def show(what, unit, ours, peer, bar, at_most):
    """One line: medians with their range, and the ratio against its bar."""
    (a, b) = statistics.median(ours), statistics.median(peer)
    ratio = a / b if at_most else b / a
    reached = ratio <= bar if at_most else ratio >= bar
    span = lambda times: f"{statistics.median(times) * 1000:8.1f} ms ({min(times) * 1000:.1f}-{max(times) * 1000:.1f})"
    sign = "≤" if at_most else "≥"
    print(f"{what:42} {unit:4} {span(ours):32} peer {span(peer):34} ratio {ratio:6.2f}  bar {sign} {bar}  "
          f"{'reached' if reached else 'NOT REACHED'}")


def compare(peer, image, ours, theirs):
    """Prints what only one side has, grouped by the reason."""
    print(f"{image:11} both {len(ours & theirs):4}   only Outcrop {len(ours - theirs):4}   only {peer} {len(theirs - ours):4}")
    for side, items in (("outcrop", ours - theirs), (peer, theirs - ours)):
        groups = {}
        for item in sorted(items):
            reason = differences.reason(peer, image, side, item)
            if reason is None:
                unexplained.append((image, side, item))
            groups.setdefault(reason or "NOT EXPLAINED", []).append(" ".join(item))
        for reason, names in groups.items():
            shown = ", ".join(names[:4]) + (f", … ({len(names)} in all)" if len(names) > 4 else "")
            print(f"    only {side}: {shown}\n        {reason}")


def report(*arguments, accept=(0,)):
    return json.loads(run([outcrop, "scan", "--output", "json", *arguments], accept)[2])["targets"][0]


def layers(image):
    """The image's layers as `--layers` takes them, top first."""
    folder = cache / "layers" / image
    return ":".join(str(folder / name) for name in sorted(os.listdir(folder), key=int, reverse=True))


def syft_packages(image):
    listed = json.loads(run([tools / "syft", "scan", f"dir:{cache}/rootfs/{image}", "-q", "-o", "json"])[2])
    types = {"python": "pypi", "java-archive": "maven", "go-module": "golang"}
    return {(types.get(a["type"], a["type"]), a["name"], a["version"]) for a in listed["artifacts"]}


def outcrop_packages(image):
    packages = report("--rootfs", f"{cache}/rootfs/{image}", "--packages")["packages"]
    # syft names a Java package by its artifact alone.
    short = lambda p: p["name"].rsplit(":", 1)[-1] if p["type"] == "maven" else p["name"]
    return {(p["type"], short(p), p["version"]) for p in packages}


def give_advisories_to_osv_scanner():
    """The bundled feed, as osv-scanner reads it offline: a zip of JSON files for each ecosystem."""
    for name, ecosystem in ECOSYSTEMS.items():
        unpacked = work / "feed" / name
        unpacked.mkdir(parents=True)
        subprocess.run(["tar", "--zstd", "-xf", FEED / f"{name}.tar.zst", "-C", unpacked], check=True)
        folder = work / "osv-scalibr" / ecosystem
        folder.mkdir(parents=True)
        with zipfile.ZipFile(folder / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(unpacked.rglob("*.json")):
                archive.write(file, file.name)


def osv_scanner(image):
    return [tools / "osv-scanner", "scan", "image", "--offline", "--all-packages", "--format", "json", "--archive",
            f"{cache}/images/{image}.tar"]


def findings(image):
    """(ecosystem, package, version, problem) of both. A problem is named by the smallest of all its names, so that one that
    two sources publish is one."""
    found = json.loads(run(osv_scanner(image), (0, 1))[2])
    theirs, names = set(), {}
    for package in (p for result in found["results"] for p in result["packages"]):
        key = package["package"]
        for record in package.get("vulnerabilities", []):
            names.setdefault(record["id"], set()).update([record["id"], *record.get("aliases", []), *record.get("upstream", [])])
            ecosystem = key["ecosystem"].split(":")[0]
            theirs.add((ecosystem, key["name"], key["version"], record["id"]))
    target = report("--layers", layers(image), "--db", str(work / "outcrop.db"), "--owned")
    types = {"deb": "Debian", "pypi": "PyPI", "npm": "npm", "maven": "Maven", "golang": "Go"}
    ours = set()
    for finding in target["findings"]:
        kind = finding["purl"].removeprefix("pkg:").split("/")[0]
        names.setdefault(finding["id"], set()).update([finding["id"], *finding["aliases"]])
        ours.add((types[kind], finding["package"], finding["installed"], finding["id"]))
    parent = {}
    def root(name):
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name
    for group in names.values():
        for name in group:
            a, b = sorted((root(name), root(min(group))))
            parent[b] = a
    canonical = lambda items: {(*item[:3], root(item[3])) for item in items}
    return canonical(ours), canonical(theirs)


def peak_memory(*arguments):
    """VmHWM of each process of a scan, in KiB. strace holds each at its exit for a moment, so that its last value is seen."""
    strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=exit_group", "-e", "inject=exit_group:delay_enter=50000"]
    child = subprocess.Popen([*strace, outcrop, "scan", *arguments], stdout=subprocess.DEVNULL, env=ENV)
    peaks = {}
    while child.poll() is None:
        for pid in os.listdir("/proc"):
            try:
                status = dict(line.split(":\t", 1) for line in open(f"/proc/{pid}/status")) if pid.isdigit() else {}
                if os.readlink(f"/proc/{pid}/exe") == outcrop and "VmHWM" in status:
                    peaks[pid] = max(peaks.get(pid, 0), int(status["VmHWM"].split()[0]))
            except (OSError, ValueError):
                continue
        time.sleep(0.002)
    if child.returncode not in (0, 2) or not peaks:
        sys.exit(f"the scan under strace ended with {child.returncode}, and {len(peaks)} processes were seen")
    return sorted(peaks.values(), reverse=True)


rootfs = {image: f"{cache}/rootfs/{image}" for image in IMAGES}
entries = sum(len(dirs) + len(files) for _, dirs, files in os.walk(rootfs["python-app"]))
print(f"== on {os.cpu_count()} processors, Linux {platform.release()}, everything in the page cache; medians (range)")
print(f"{run([outcrop, '--version'])[2].decode().strip()}, {run([tools / 'syft', '--version'])[2].decode().strip()}, "
      f"{run([tools / 'osv-scanner', '--version'])[2].decode().splitlines()[0]}; python-app has {entries} entries")

print("\n== packages of each image's merged directory, beside syft: type, name and version")
for image in IMAGES:
    compare("syft", image, outcrop_packages(image), syft_packages(image))

print(f"\n== findings of each image with the same advisories (data/feed), beside osv-scanner: package, version, problem")
give_advisories_to_osv_scanner()
run([outcrop, "db", "build", "--out", work / "outcrop.db", *(x for n in ECOSYSTEMS for x in ("--from", FEED / f"{n}.tar.zst"))])
for image in IMAGES:
    compare("osv-scanner", image, *findings(image))

print("\n== time")
python = rootfs["python-app"]
ours, find = pairs(11, ([outcrop, "scan", "--rootfs", python, "--packages"], (0,)), (["find", python, "-printf", ""], (0,)))
show("python-app, scan --packages : find", "wall", [w for w, _ in ours], [w for w, _ in find], 2, True)
for image in IMAGES:
    ours, syft = pairs(5, ([outcrop, "scan", "--rootfs", rootfs[image], "--packages"], (0,)),
                       ([tools / "syft", "scan", f"dir:{rootfs[image]}", "-q", "-o", "json"], (0,)))
    show(f"{image}, scan --packages : syft, same dir", "CPU", [c for _, c in ours], [c for _, c in syft], 30, False)
print("osv-scanner reads the image's archive, and unpacks it; Outcrop the unpacked layers. Both match the same advisories.")
for image in IMAGES:
    ours, osv = pairs(5, ([outcrop, "scan", "--layers", layers(image), "--db", work / "outcrop.db"], (0,)), (osv_scanner(image), (0, 1)))
    show(f"{image}, scan : osv-scanner", "CPU", [c for _, c in ours], [c for _, c in osv], 10, False)

print("\n== peak memory, VmHWM of every process, and their sum; bar: 48 MiB")
for image in IMAGES:
    peaks = peak_memory("--layers", layers(image), "--db", str(work / "outcrop.db"))
    total = sum(peaks) / 1024
    print(f"{image:11} {total:6.1f} MiB  {'reached' if total <= 48 else 'NOT REACHED'}  ({', '.join(f'{p / 1024:.1f}' for p in peaks)})")

subprocess.run(["rm", "-rf", work], check=True)
if unexplained:
    sys.exit(f"{len(unexplained)} differences have no reason in benches/differences.py")
