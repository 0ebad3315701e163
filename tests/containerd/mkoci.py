#!/usr/bin/env python3
"""Layers to an OCI archive that `ctr images import`, syft's `oci-archive:` and `docker load` all read.

    mkoci.py OUT.tar NAME:TAG [--from ARCHIVE.tar] [--cmd JSON] [--env K=V]... LAYER...

The layers of ARCHIVE, made by this program, come first as they are. LAYER, base first, is a directory or a tar. In a directory, whiteouts (character device 0:0) and opaque directories
(trusted.overlay.opaque = y) are written as the image format spells them, so an overlay's upper directory is a layer as
it stands. The same input gives the same bytes: names sorted, numeric owners, no time of building. Where
SOURCE_DATE_EPOCH is set, no file is younger than that.
"""

import argparse
import gzip
import hashlib
import io
import json
import os
import platform
import shutil
import stat
import sys
import tarfile
import tempfile

EPOCH = "1970-01-01T00:00:00Z"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "riscv64": "riscv64", "s390x": "s390x", "ppc64le": "ppc64le"}


class Digesting:
    """A file for writing that knows the SHA-256 and the size of what went through."""

    def __init__(self, file):
        self.file, self.hash, self.size = file, hashlib.sha256(), 0

    def write(self, data):
        self.hash.update(data)
        self.size += len(data)
        return self.file.write(data)

    def flush(self):
        self.file.flush()

    @property
    def digest(self):
        return "sha256:" + self.hash.hexdigest()


def entries(root):
    """Yields the paths below `root`, parents before children, sorted by bytes, relative."""
    stack = [b""]
    while stack:
        relative = stack.pop()
        if relative:
            yield relative
        path = os.path.join(root, relative)
        if stat.S_ISDIR(os.lstat(path).st_mode):
            names = sorted(os.listdir(path), reverse=True)
            stack.extend(os.path.join(relative, name) for name in names)


def mark(path, name):
    """Reads one mark of overlayfs."""
    try:
        return os.getxattr(path, "trusted.overlay." + name, follow_symlinks=False)
    except OSError:
        return None


def header(relative, info, youngest):
    """The tar header of one path, without what depends on its kind."""
    entry = tarfile.TarInfo(os.fsdecode(relative))
    entry.mode = stat.S_IMODE(info.st_mode)
    entry.uid, entry.gid = info.st_uid, info.st_gid
    entry.mtime = int(info.st_mtime) if youngest is None else min(int(info.st_mtime), youngest)
    return entry


def empty(tar, directory, name):
    """Adds an empty file, which is how marks are spelled in an image."""
    tar.addfile(tarfile.TarInfo(os.fsdecode(os.path.join(directory, name))))


def write_tree(root, file):
    """Writes the directory `root` as one layer."""
    root = os.fsencode(root)
    youngest = int(os.environ["SOURCE_DATE_EPOCH"]) if "SOURCE_DATE_EPOCH" in os.environ else None
    linked = {}
    with tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT, errors="surrogateescape") as tar:
        for relative in entries(root):
            path = os.path.join(root, relative)
            info = os.lstat(path)
            kind = stat.S_IFMT(info.st_mode)
            if kind == stat.S_IFCHR and info.st_rdev == 0:
                empty(tar, os.path.dirname(relative), b".wh." + os.path.basename(relative))
                continue
            if kind == stat.S_IFSOCK:
                continue
            for unsupported in ("redirect", "metacopy"):
                if mark(path, unsupported) is not None:
                    sys.exit(f"mkoci: {os.fsdecode(path)} carries trusted.overlay.{unsupported}: it is no layer by itself")
            entry = header(relative, info, youngest)
            try:
                capability = os.getxattr(path, "security.capability", follow_symlinks=False)
                entry.pax_headers["SCHILY.xattr.security.capability"] = capability.decode("utf-8", "surrogateescape")
            except OSError:
                pass
            if kind == stat.S_IFDIR:
                entry.type = tarfile.DIRTYPE
                tar.addfile(entry)
                if mark(path, "opaque") == b"y":
                    empty(tar, relative, b".wh..wh..opq")
            elif kind != stat.S_IFDIR and info.st_nlink > 1 and (info.st_dev, info.st_ino) in linked:
                entry.type, entry.linkname = tarfile.LNKTYPE, linked[info.st_dev, info.st_ino]
                tar.addfile(entry)
            else:
                linked[info.st_dev, info.st_ino] = os.fsdecode(relative)
                add_leaf(tar, entry, path, info, kind)


def add_leaf(tar, entry, path, info, kind):
    """Adds what is no directory and no second name of a file."""
    if kind == stat.S_IFREG:
        entry.size = info.st_size
        with open(path, "rb") as content:
            tar.addfile(entry, content)
        return
    if kind == stat.S_IFLNK:
        entry.type, entry.linkname = tarfile.SYMTYPE, os.fsdecode(os.readlink(path))
    elif kind == stat.S_IFIFO:
        entry.type = tarfile.FIFOTYPE
    else:
        entry.type = tarfile.CHRTYPE if kind == stat.S_IFCHR else tarfile.BLKTYPE
        entry.devmajor, entry.devminor = os.major(info.st_rdev), os.minor(info.st_rdev)
    tar.addfile(entry)


def write_layer(source, blobs):
    """Writes one layer below `blobs`; returns its diff ID and its descriptor."""
    temporary = os.path.join(blobs, "layer")
    with open(temporary, "wb") as raw:
        outer = Digesting(raw)
        # No name and no time in the gzip header. Level 4: half the time of 6 for a few per cent more.
        with gzip.GzipFile(filename="", mode="wb", compresslevel=4, fileobj=outer, mtime=0) as packed:
            inner = Digesting(packed)
            if os.path.isdir(source):
                write_tree(source, inner)
            else:
                with open(source, "rb") as tar:
                    shutil.copyfileobj(tar, inner, 1 << 20)
    os.replace(temporary, os.path.join(blobs, outer.digest.removeprefix("sha256:")))
    descriptor = {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": outer.digest, "size": outer.size}
    return inner.digest, descriptor


def take_layers(archive, blobs):
    """Copies the layers of another archive below `blobs`; returns what `write_layer` would have."""
    with tarfile.open(archive) as tar:
        def blob(digest):
            return tar.extractfile("blobs/sha256/" + digest.removeprefix("sha256:"))

        manifest = json.load(blob(json.load(tar.extractfile("index.json"))["manifests"][0]["digest"]))
        diff_ids = json.load(blob(manifest["config"]["digest"]))["rootfs"]["diff_ids"]
        for layer in manifest["layers"]:
            with open(os.path.join(blobs, layer["digest"].removeprefix("sha256:")), "wb") as file:
                shutil.copyfileobj(blob(layer["digest"]), file, 1 << 20)
        return list(zip(diff_ids, manifest["layers"], strict=True))


def write_json(blobs, media_type, value):
    """Writes one JSON blob below `blobs`; returns its descriptor."""
    data = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    digest = hashlib.sha256(data).hexdigest()
    with open(os.path.join(blobs, digest), "wb") as file:
        file.write(data)
    return {"mediaType": media_type, "digest": "sha256:" + digest, "size": len(data)}


def add_blobs(tar, blobs):
    """Adds the blobs, and the directories above them: syft and `docker load` want those entries."""
    for directory in ("blobs", "blobs/sha256"):
        entry = tarfile.TarInfo(directory)
        entry.type, entry.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(entry)
    for name in sorted(os.listdir(blobs)):
        path = os.path.join(blobs, name)
        entry = tarfile.TarInfo("blobs/sha256/" + name)
        entry.size = os.path.getsize(path)
        with open(path, "rb") as file:
            tar.addfile(entry, file)


def add_json(tar, name, value):
    """Adds one of the archive's own JSON files."""
    data = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out")
    parser.add_argument("name", help="image name with tag, as `ctr images ls` will show it")
    parser.add_argument("--from", dest="base", metavar="ARCHIVE.tar")
    parser.add_argument("layers", nargs="*", help="directories or tars, base first")
    parser.add_argument("--cmd", type=json.loads, default=["sleep", "infinity"], help="JSON list; default: sleep infinity")
    parser.add_argument("--env", action="append", default=[])
    arguments = parser.parse_intermixed_args()

    directory = os.path.dirname(os.path.abspath(arguments.out))
    with tempfile.TemporaryDirectory(prefix=".mkoci.", dir=directory) as blobs:
        layers = take_layers(arguments.base, blobs) if arguments.base else []
        layers += [write_layer(layer, blobs) for layer in arguments.layers]
        search = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        config = write_json(blobs, "application/vnd.oci.image.config.v1+json", {
            "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "created": EPOCH,
            "config": {"Cmd": arguments.cmd, "Env": [search, *arguments.env]},
            "rootfs": {"type": "layers", "diff_ids": [diff_id for diff_id, _ in layers]},
            # The instruction is a step's only part that is reported.
            "history": [{"created": EPOCH, "created_by": "RUN" if number else "ADD"} for number, _ in enumerate(layers)],
        })
        manifest = write_json(blobs, "application/vnd.oci.image.manifest.v1+json", {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config,
            "layers": [descriptor for _, descriptor in layers],
        })
        manifest["annotations"] = {
            "io.containerd.image.name": arguments.name,
            "org.opencontainers.image.ref.name": arguments.name.rpartition(":")[2],
        }
        blob = lambda descriptor: "blobs/sha256/" + descriptor["digest"].removeprefix("sha256:")
        partial = arguments.out + ".partial"
        with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as tar:
            add_blobs(tar, blobs)
            add_json(tar, "oci-layout", {"imageLayoutVersion": "1.0.0"})
            add_json(tar, "index.json", {
                "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [manifest]})
            # The older list of Docker's archives, over the same blobs.
            add_json(tar, "manifest.json", [{
                "Config": blob(config), "RepoTags": [arguments.name], "Layers": [blob(layer) for _, layer in layers]}])
        os.replace(partial, arguments.out)


if __name__ == "__main__":
    main()
