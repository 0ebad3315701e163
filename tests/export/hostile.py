#!/usr/bin/env python3
"""Writes directories to scan, and advisories about what is in them: hostile.py DIR

`ordinary` has ordinary packages, `hostile` names, versions, licenses and paths that try to break out of every format, `empty` has none.
"""
import json
import pathlib
import sys

root = pathlib.Path(sys.argv[1])
TEXTS = [
    "=cmd|'/c calc'!A1",
    "</script><script>alert(1)</script>",
    '","x":"',
    "\u202eabc\u200b",
    "a\u001b[2Jb",
    "a b#c?d%e@f:g/h\\i",
    "-1+2",
    "\t@SUM(1)",
    "é日本😀",
]


def put(path, text):
    path = root / path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def advisory(number, name, ecosystem, fixed, score=True, summary="a summary"):
    events = [{"introduced": "0"}] + ([{"fixed": fixed}] if fixed else [])
    vector = {"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}
    record = {
        "id": f"CVE-2026-{number}", "aliases": [f"GHSA-aaaa-bbbb-{number:04}"], "modified": "2026-11-01T00:00:00Z", "summary": summary,
        "severity": [vector] if score else [],
        "affected": [{"package": {"ecosystem": ecosystem, "name": name}, "ranges": [{"type": "ECOSYSTEM", "events": events}]}],
    }
    put(f"feed/{number}.json", json.dumps(record))


def npm(place, path, name, version, license):
    put(f"{place}/{path}/package.json", json.dumps({"name": name, "version": version, "license": license}))


put("empty/etc/os-release", "ID=debian\nVERSION_ID=12\nPRETTY_NAME=\"Debian 12\"\n")
put("empty/var/lib/dpkg/status", "")
put("ordinary/etc/os-release", "ID=debian\nVERSION_ID=12\nPRETTY_NAME=\"Debian 12\"\n")
stanza = "Package: {}\nStatus: install ok installed\nArchitecture: amd64\nVersion: {}\n\n"
put("ordinary/var/lib/dpkg/status", stanza.format("bash", "1:5.2-1") + stanza.format("libstdc++6", "12.2.0-14"))
npm("ordinary", "app/node_modules/lodash", "lodash", "4.17.20", "MIT")
npm("ordinary", "app/node_modules/other/node_modules/lodash", "lodash", "4.17.20", "MIT")
npm("ordinary", "app/node_modules/@scope/name", "@scope/name", "1.0.0", "(MIT OR Apache-2.0)")
advisory(1, "bash", "Debian:12", "1:5.2-2")
advisory(2, "lodash", "npm", "4.17.21", summary="")
advisory(3, "lodash", "npm", None, score=False)
for number, text in enumerate(TEXTS):
    npm("hostile", f"app/node_modules/{number}", text, "1.0.0", text)
    npm("hostile", f"app/node_modules/v{number}", f"version-{number}", text, [text, "", "MIT"])
    npm("hostile", f"=app,'{number}\"/node_modules/p", "lodash", "4.17.20", text)
    advisory(100 + number, text, "npm", text, summary=text)
    advisory(200 + number, f"version-{number}", "npm", None, summary=text)
