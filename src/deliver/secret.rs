//! Secrets and certificates in files. They are read for each request, so that new ones are used without a restart.

use std::path::Path;

/// Largest file, bytes.
const MAX_SIZE: u64 = 1 << 20;

/// Returns the bytes of a file that the configuration names, or one line that says why not.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    let failed = |cause: String| format!("reading {}: {cause}", path.display());
    let size = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?.len();
    if size > MAX_SIZE {
        return Err(failed(format!("it has {size} bytes, more than {MAX_SIZE}")));
    }
    std::fs::read(path).map_err(|error| failed(error.to_string()))
}

/// Returns the text of a file without white space around it. It fits into a header.
pub(super) fn read_text(path: &Path) -> Result<String, String> {
    let bytes = read(path)?;
    let text = std::str::from_utf8(&bytes).unwrap_or_default().trim();
    match !text.is_empty() && text.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
        true => Ok(text.to_owned()),
        false => Err(format!("reading {}: expected one line of ASCII text", path.display())),
    }
}
