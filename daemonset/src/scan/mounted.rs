//! Where is a container's root filesystem mounted?

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

/// The mounted root of a containerd container, found among this process's own mounts: containerd does not tell its state
/// directory. `mountinfo` is the text of `/proc/self/mountinfo` (proc(5)).
pub fn mounted_root(mountinfo: &[u8], namespace: &str, id: &str) -> Option<PathBuf> {
    let end = format!("/io.containerd.runtime.v2.task/{namespace}/{id}/rootfs").into_bytes();
    mountinfo
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .map(unescape)
        .find(|path| path.ends_with(&end))
        .map(|path| PathBuf::from(OsString::from_vec(path)))
}

/// Undoes the kernel's escapes: a space, tab, newline or backslash is written as a backslash and three octal digits.
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
        let find = |namespace, id| mounted_root(mountinfo, namespace, id);
        assert_eq!(
            find("k8s.io", "abc"),
            Some(PathBuf::from("/run/c d/io.containerd.runtime.v2.task/k8s.io/abc/rootfs"))
        );
        assert_eq!(
            find("default", "abc"),
            Some(PathBuf::from("/run/containerd/io.containerd.runtime.v2.task/default/abc/rootfs"))
        );
        assert_eq!(find("default", "bc"), None);
    }
}
