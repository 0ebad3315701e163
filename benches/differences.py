"""Where Outcrop and a peer list different things, and why, with who is right. A difference without a rule fails the benchmark."""
import re

# Peer, image, the side that alone lists it, pattern of its fields joined by spaces, reason.
RULES = [
    ("syft", "node-app", "syft", r"npm web-streams-\S+ UNKNOWN",
     "package.json files without a version: parts of the package web-streams-polyfill, which both list; with no version there is nothing to match"),
    ("syft", "java-app", "syft", r"maven ca-certificates-java UNKNOWN",
     "a jar that names no group and no version: Outcrop counts it as unidentified, with its digest"),
    ("syft", "go-app", "syft", r"golang stdlib go\S+",
     "one thing by two names: Outcrop leaves out the `go` before the standard library's version, as OSV's records do"),
    ("syft", "go-app", "outcrop", r"golang stdlib \d\S+", "see the line about stdlib from syft"),
    ("syft", "go-app", "syft", r"golang \S+/go-app UNKNOWN",
     "one thing by two names: Outcrop gives the main module the version that Go wrote into the program, (devel)"),
    ("syft", "go-app", "outcrop", r"golang \S+/go-app \(devel\)", "see the line about the main module from syft"),
    ("osv-scanner", "python-app", "osv-scanner", r"PyPI urllib3 1\.26\.12 CVE-\S+",
     "Outcrop is right: Debian installed this urllib3, unchanged, and its advisories say that the fix is in; withheld, shown by --owned"),
    ("osv-scanner's archive", "node-app", "outcrop", r"npm .*",
     "Outcrop is right: in installed packages below /usr/share/nodejs, where osv-scanner looks for npm's lock files only"),
    ("osv-scanner's archive", "java-app", "outcrop", r"Maven org\.springframework:spring-(beans|context|core|expression) .*",
     "Outcrop is right: Spring's jars name no group; Outcrop knows it, osv-scanner matches nothing without"),
    ("osv-scanner's own", "layers", "outcrop", r"Debian libssh2 .*",
     "Outcrop is right, and so is osv-scanner of the archive: of a CycloneDX list it takes no source packages, by which Debian's records go"),
]


def reason(peer, image, side, item):
    """Why only `side` lists `item`, or nothing where that is not known."""
    for rule_peer, rule_image, rule_side, pattern, why in RULES:
        if peer.startswith(rule_peer) and rule_image == image and rule_side in side and re.fullmatch(pattern, " ".join(item)):
            return why
    return None
