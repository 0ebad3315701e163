#!/usr/bin/python3
"""Outcrop beside find, syft and osv-scanner, on the demo's images: peers.py CACHE OUTCROP

Prints what was compared, on what, and the ratio; lists every package and finding on which two programs differ with the
reason, and ends with 1 where a difference has none in `differences.py`. Times are shown and judged against their bar, but
never end the run: they belong to the machine.
"""
import json, os, pathlib, platform, re, statistics, subprocess, sys, tempfile, time, zipfile

import yaml

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
database = str(work / "outcrop.db")
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


def warm(*paths):
    """Reads everything below into the page cache; twice, since what is read first can push out what is read next."""
    for _ in range(2):
        for path in paths:
            for file in pathlib.Path(path).rglob("*"):
                if file.is_file() and not file.is_symlink():
                    file.read_bytes()


def pairs(count, first, second, *inputs):
    """Two commands, one after the other, `count` times, after one round that is not counted: (wall, cpu) of each."""
    warm(*inputs)
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
    print(f"{image:11} both {len(ours & theirs):4}, only Outcrop {len(ours - theirs):2}, only {peer} {len(theirs - ours):2}")
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


def package(kind, name, version):
    """As both are compared: Python's names normalised (PEP 503), Java's by their artifact alone, as syft has them, and Go's
    versions without their `v`, as osv-scanner has them."""
    if kind in ("pypi", "PyPI"):
        name = re.sub("[-_.]+", "-", name).lower()
    return (kind, name.rsplit(":", 1)[-1] if kind == "maven" else name, version.removeprefix("v") if kind == "Go" else version)


def syft_packages(image):
    listed = json.loads(run([tools / "syft", "scan", f"oci-archive:{cache}/images/{image}.tar", "-q", "-o", "json"])[2])
    types = {"deb": "deb", "python": "pypi", "npm": "npm", "java-archive": "maven", "go-module": "golang"}
    return {package(types[a["type"]], a["name"], a["version"]) for a in listed["artifacts"] if a["type"] in types}


def outcrop_packages(image):
    packages = report("--layers", layers(image), "--packages")["packages"]
    return {package(p["type"], p["name"], p["version"]) for p in packages}


def give_advisories_to_osv_scanner():
    """The bundled feed, as osv-scanner reads it offline: a zip of JSON files for each ecosystem."""
    for name, ecosystem in ECOSYSTEMS.items():
        unpacked = work / "feed" / name
        unpacked.mkdir(parents=True)
        subprocess.run(["tar", "--zstd", "-xf", FEED / f"{name}.tar.zst", "-C", unpacked], check=True)
        folder = work / "osv-scalibr" / ecosystem
        folder.mkdir(parents=True)
        with zipfile.ZipFile(folder / "all.zip", "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
            for file in sorted(path for path in unpacked.rglob("*") if path.is_file()):
                record = json.loads(file.read_bytes()) if file.suffix == ".json" else yaml.load(file.read_bytes(), yaml.BaseLoader)
                archive.writestr(f"{file.stem}.json", json.dumps(record))


def osv_scanner(image):
    return [tools / "osv-scanner", "scan", "image", "--offline", "--all-packages", "--format", "json", "--archive",
            f"{cache}/images/{image}.tar"]


def osv_findings(command, names):
    """What osv-scanner finds: (ecosystem, package, version, record). Adds each record's other names to `names`."""
    found = set()
    for listed in (p for result in json.loads(run(command, (0, 1))[2])["results"] for p in result["packages"]):
        name, version, ecosystem = (listed["package"][key] for key in ("name", "version", "ecosystem"))
        for record in listed.get("vulnerabilities", []):
            names.append({record["id"], *record.get("aliases", []), *record.get("upstream", [])})
            found.add((*package(ecosystem.split(":")[0], name, version), record["id"]))
    return found


def outcrop_findings(image, names):
    """The same of Outcrop, with Debian's packages by the name of their source, as osv-scanner has them."""
    types = {"deb": "Debian", "pypi": "PyPI", "npm": "npm", "maven": "Maven", "golang": "Go"}
    found = set()
    target = report("--layers", layers(image), "--db", database)
    sources = {p["purl"]: p["source"]["name"] for p in target["packages"] if p["source"]}
    for finding in target["findings"]:
        names.append({finding["id"], *finding["aliases"]})
        kind = types[finding["purl"].removeprefix("pkg:").split("/")[0]]
        found.add((*package(kind, sources.get(finding["purl"], finding["package"]), finding["installed"]), finding["id"]))
    return found


def compare_findings(image):
    """Beside osv-scanner on the image's archive, and beside osv-scanner on the packages that Outcrop listed: the one
    compares the whole, the other the matching alone."""
    bill = work / f"{image}.cdx.json"
    bill.write_bytes(run([outcrop, "scan", "--layers", layers(image), "--packages", "--output", "cyclonedx"])[2])
    names = []
    ours = outcrop_findings(image, names)
    archive = osv_findings(osv_scanner(image), names)
    listed = osv_findings([tools / "osv-scanner", "scan", "source", "--offline", "--all-packages", "--format", "json", "-L", bill], names)
    # One problem has a record in several sources: it goes by the first of all its names.
    first = {}
    def root(name):
        while first.setdefault(name, name) != name:
            name = first[name]
        return name
    for group in names:
        for name in group:
            low, high = sorted((root(name), root(min(group))))
            first[high] = low
    canonical = lambda items: {(*item[:3], root(item[3])) for item in items}
    compare("osv-scanner's archive", image, canonical(ours), canonical(archive))
    compare("osv-scanner's own matching of our list", image, canonical(ours), canonical(listed))


def peak_memory(*arguments):
    """VmHWM of each process of a scan, in KiB. strace holds each at its exit for a moment, so that its last value is seen."""
    strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=exit_group", "-e",
              "inject=exit_group:delay_enter=50000"]
    child = subprocess.Popen([*strace, outcrop, "scan", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENV)
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
print(f"{run([outcrop, '--version'])[2].decode().strip()}, syft 1.57.0, "
      f"osv-scanner 2.5.0; python-app has {entries} entries")

print("\n== packages of each image, beside syft (oci-archive): type, name and version, in the ecosystems that Outcrop reads")
for image in IMAGES:
    compare("syft", image, outcrop_packages(image), syft_packages(image))

print(f"\n== findings of each image with the same advisories (data/feed), beside osv-scanner: package, version, problem")
give_advisories_to_osv_scanner()
run([outcrop, "db", "build", "--out", database, *(x for n in ECOSYSTEMS for x in ("--from", FEED / f"{n}.tar.zst"))])
for image in IMAGES:
    compare_findings(image)

print("\n== time")
python = rootfs["python-app"]
ours, find = pairs(11, ([outcrop, "scan", "--rootfs", python, "--packages"], (0,)), (["find", python, "-printf", ""], (0,)), python)
show("python-app, scan --packages : find", "wall", [w for w, _ in ours], [w for w, _ in find], 1.7, True)
for image in IMAGES:
    ours, syft = pairs(5, ([outcrop, "scan", "--rootfs", rootfs[image], "--packages"], (0,)),
                       ([tools / "syft", "scan", f"dir:{rootfs[image]}", "-q", "-o", "json"], (0,)), rootfs[image])
    show(f"{image}, scan --packages : syft, same dir", "CPU", [c for _, c in ours], [c for _, c in syft], 40, False)
print("osv-scanner reads the image's archive, and unpacks it; Outcrop the unpacked layers. Both match the same advisories.")
for image in IMAGES:
    ours, osv = pairs(5, ([outcrop, "scan", "--layers", layers(image), "--db", database], (0,)), (osv_scanner(image), (0, 1)),
                      *layers(image).split(":"))
    show(f"{image}, scan : osv-scanner", "CPU", [c for _, c in ours], [c for _, c in osv], 40, False)

print("\n== peak memory, VmHWM of every process, and their sum; bar: 48 MiB")
for image in IMAGES:
    peaks = peak_memory("--layers", layers(image), "--db", database)
    total = sum(peaks) / 1024
    print(f"{image:11} {total:6.1f} MiB  {'reached' if total <= 48 else 'NOT REACHED'}  ({', '.join(f'{p / 1024:.1f}' for p in peaks)})")

subprocess.run(["rm", "-rf", work], check=True)
if unexplained:
    sys.exit(f"{len(unexplained)} differences have no reason in benches/differences.py")
