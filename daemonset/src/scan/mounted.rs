//! Finds the mounted root filesystem of a container.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

/// Finds the mounted root of a container among this process's own mounts, since a runtime does not report its state directory.
///
/// `mountinfo` is the text of `/proc/self/mountinfo` (proc(5)), `root_mount` the end of the path, as in
/// [`Container::root_mount`](outcrop_proto::Container::root_mount). `upper` is the container's writable layer, by its path on the
/// host: a mount with another writable layer belongs to another runtime's container of the same ID.
pub fn mounted_root(mountinfo: &[u8], root_mount: &str, upper: Option<&[u8]>) -> Option<PathBuf> {
    if root_mount.is_empty() {
        return None;
    }
    mountinfo
        .split(|byte| *byte == b'\n')
        .filter(|line| upper.is_none_or(|upper| !names_another(line, upper)))
        .filter_map(mount_point)
        .find(|path| path.as_os_str().as_bytes().ends_with(root_mount.as_bytes()))
}

/// Returns the mount points of a `/proc/self/mountinfo`.
pub(crate) fn mount_points(mountinfo: &[u8]) -> impl Iterator<Item = PathBuf> {
    mountinfo.split(|byte| *byte == b'\n').filter_map(mount_point)
}

fn mount_point(line: &[u8]) -> Option<PathBuf> {
    let path = line.split(|byte| *byte == b' ').nth(4)?;
    Some(PathBuf::from(OsString::from_vec(unescape(path))))
}

/// Returns whether a mount has a writable layer other than `upper`.
fn names_another(line: &[u8], upper: &[u8]) -> bool {
    let options = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    let mut options = options.split(|byte| *byte == b',');
    options.find_map(|option| option.strip_prefix(b"upperdir=")).is_some_and(|path| unescape(path) != upper)
}

/// Decodes the kernel's escapes: a space, tab, newline or backslash is written as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        let digits = tail.first_chunk::<3>().filter(|digits| digits.iter().all(|digit| (b'0'..=b'7').contains(digit)));
        match digits {
            Some(digits) if *byte == b'\\' => {
                let value = digits.iter().fold(0_u32, |value, digit| value * 8 + u32::from(digit - b'0'));
                out.push(value as u8);
                rest = &tail[3..];
            }
            _ => out.push(*byte),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_root_by_namespace_and_id_and_undoes_escapes() {
        let mountinfo =
            b"36 35 98:0 / /run/c\\040d/io.containerd.runtime.v2.task/k8s.io/abc/rootfs rw - overlay overlay rw\n\
            37 35 98:0 / /run/containerd/io.containerd.runtime.v2.task/default/abc/rootfs rw - overlay overlay rw\n";
        let find = |namespace, id| {
            let end = format!("/io.containerd.runtime.v2.task/{namespace}/{id}/rootfs");
            mounted_root(mountinfo, &end, Some(b"/any"))
        };
        assert_eq!(
            find("k8s.io", "abc"),
            Some(PathBuf::from("/run/c d/io.containerd.runtime.v2.task/k8s.io/abc/rootfs"))
        );
        assert_eq!(
            find("default", "abc"),
            Some(PathBuf::from("/run/containerd/io.containerd.runtime.v2.task/default/abc/rootfs"))
        );
        assert_eq!(find("default", "bc"), None);
        assert_eq!(mounted_root(mountinfo, "", None), None);
    }

    #[test]
    fn another_containerds_container_of_the_same_name_is_told_by_its_writable_layer() {
        let line = |root: &str, upper: &str| {
            let target = format!("{root}/io.containerd.runtime.v2.task/k8s.io/web/rootfs");
            format!("36 35 98:0 / {target} rw - overlay overlay rw,lowerdir=/l,upperdir={upper},workdir=/w\n")
        };
        let mountinfo = [line("/run/one", "/var/one\\040/fs"), line("/run/two", "/var/two/fs")].concat();
        let end = "/io.containerd.runtime.v2.task/k8s.io/web/rootfs";
        let find = |upper: &[u8]| mounted_root(mountinfo.as_bytes(), end, Some(upper));
        let root = |root: &str| Some(PathBuf::from(format!("{root}/io.containerd.runtime.v2.task/k8s.io/web/rootfs")));
        assert_eq!(find(b"/var/one /fs"), root("/run/one"));
        assert_eq!(find(b"/var/two/fs"), root("/run/two"));
        assert_eq!(find(b"/var/three/fs"), None);
    }
}
