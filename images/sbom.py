#!/usr/bin/env python3
"""What a program of ours is linked from, as CycloneDX 1.5 on standard output.

    sbom.py PACKAGE TARGET

From `cargo metadata` and Cargo.lock: what is linked for TARGET only, without what builds and tests need. No time and no random serial
number, so that the same sources give the same bytes.
"""

import json
import subprocess
import sys
import tomllib


def main():
    package, target = sys.argv[1:]
    command = ["cargo", "metadata", "--locked", "--format-version=1", f"--filter-platform={target}"]
    metadata = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    with open(f"{metadata['workspace_root']}/Cargo.lock", "rb") as file:
        checksums = {(locked["name"], locked["version"]): locked.get("checksum") for locked in tomllib.load(file)["package"]}
    packages = {one["id"]: one for one in metadata["packages"]}
    members = set(metadata["workspace_members"])
    linked = {
        node["id"]: [dep["pkg"] for dep in node["deps"] if any(kind["kind"] is None for kind in dep["dep_kinds"])]
        for node in metadata["resolve"]["nodes"]
    }
    # A procedural macro runs in the compiler: neither it nor what it stands on is in the program.
    macros = {one["id"] for one in metadata["packages"] if any("proc-macro" in target["kind"] for target in one["targets"])}
    root = next(one for one in members if packages[one]["name"] == package)
    reached, open_ = {root}, [root]
    while open_:
        for dependency in linked[open_.pop()]:
            if dependency not in reached and dependency not in macros:
                reached.add(dependency)
                open_.append(dependency)

    def purl(one):
        return f"pkg:cargo/{packages[one]['name']}@{packages[one]['version']}"

    def component(one):
        told = packages[one]
        result = {"type": "application" if one == root else "library", "bom-ref": purl(one), "name": told["name"],
                  "version": told["version"], "purl": purl(one)}
        if told["license"]:
            # Some still write the slash that crates.io used for "or".
            result["licenses"] = [{"expression": told["license"].replace("/", " OR ")}]
        checksum = checksums.get((told["name"], told["version"]))
        if checksum:
            result["hashes"] = [{"alg": "SHA-256", "content": checksum}]
        return result

    order = sorted(reached, key=purl)
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": component(root)},
        "components": [component(one) for one in order if one != root],
        "dependencies": [
            {"ref": purl(one), "dependsOn": sorted(purl(other) for other in set(linked[one]) & reached)} for one in order
        ],
    }
    json.dump(document, sys.stdout, indent=1, sort_keys=True)
    print()


if __name__ == "__main__":
    main()
