#!/usr/bin/env python3
"""One layer to an OCI archive of one program.

    archive.py OUT.tar NAME:TAG LAYER.tar --entrypoint PATH --user UID:GID [--label KEY=VALUE]...

It stands on what writes the archives that tests read (tests/containerd/mkoci.py). The same input gives the same bytes.
"""

import argparse
import os
import platform
import sys
import tarfile
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "containerd"))
sys.dont_write_bytecode = True
import mkoci  # noqa: E402

OCI = "application/vnd.oci.image."


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out")
    parser.add_argument("name", help="image name with tag")
    parser.add_argument("layer")
    parser.add_argument("--entrypoint", required=True)
    parser.add_argument("--user", required=True)
    parser.add_argument("--label", action="append", default=[])
    arguments = parser.parse_args()

    directory = os.path.dirname(os.path.abspath(arguments.out))
    with tempfile.TemporaryDirectory(prefix=".archive.", dir=directory) as blobs:
        diff_id, layer = mkoci.write_layer(arguments.layer, blobs)
        config = mkoci.write_json(blobs, OCI + "config.v1+json", {
            "architecture": mkoci.ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "created": mkoci.EPOCH,
            "config": {
                "Entrypoint": [arguments.entrypoint],
                "Env": ["PATH=/usr/bin"],
                "Labels": dict(label.split("=", 1) for label in arguments.label),
                "User": arguments.user,
                "WorkingDir": "/",
            },
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
            "history": [{"created": mkoci.EPOCH, "created_by": "images/build"}],
        })
        manifest = mkoci.write_json(blobs, OCI + "manifest.v1+json", {
            "schemaVersion": 2, "mediaType": OCI + "manifest.v1+json", "config": config, "layers": [layer]})
        manifest["annotations"] = {
            "io.containerd.image.name": arguments.name,
            "org.opencontainers.image.ref.name": arguments.name.rpartition(":")[2],
        }
        blob = lambda descriptor: "blobs/sha256/" + descriptor["digest"].removeprefix("sha256:")
        partial = arguments.out + ".partial"
        with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as tar:
            mkoci.add_blobs(tar, blobs)
            mkoci.add_json(tar, "oci-layout", {"imageLayoutVersion": "1.0.0"})
            mkoci.add_json(tar, "index.json", {"schemaVersion": 2, "mediaType": OCI + "index.v1+json", "manifests": [manifest]})
            # The older list of Docker's archives, over the same blobs.
            mkoci.add_json(tar, "manifest.json", [{"Config": blob(config), "RepoTags": [arguments.name], "Layers": [blob(layer)]}])
        os.replace(partial, arguments.out)


if __name__ == "__main__":
    main()
