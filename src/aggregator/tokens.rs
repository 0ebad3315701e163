//! Who may speak for which node: a file of names and hashes, one node a line.
//!
//! A token is 32 random bytes, written in hexadecimal; the file holds its SHA-256, so that who reads the file can speak for nobody.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use outcrop_proto::Digest;

/// Why tokens could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file.
    #[error("the tokens in {path}: {source}", path = .path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What is the matter.
        source: std::io::Error,
    },
    /// A line that is not `NODE sha256:HASH`.
    #[error("{path}:{line}: not \"NODE sha256:HASH\": make lines with outcrop token new NODE", path = .path.display())]
    Line {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
    },
    /// A name that would not be one word of a line.
    #[error("{0:?} is no node's name: letters, digits, '-', '.' and '_', at most 253")]
    Name(String),
}

/// Hashes of tokens, with the node that each is for.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    nodes: HashMap<Digest, String>,
}

fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    !name.is_empty() && name.len() <= 253 && name.bytes().all(allowed)
}

impl Tokens {
    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read, or has a line that is none.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| TokenError::File { path: path.to_owned(), source })?;
        let mut nodes = HashMap::new();
        for (number, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let parsed = line.split_once(' ').filter(|(name, _)| is_name(name));
            let parsed = parsed.and_then(|(name, hash)| Some((name, hash.trim().parse::<Digest>().ok()?)));
            let (name, hash) = parsed.ok_or(TokenError::Line { path: path.to_owned(), line: number + 1 })?;
            nodes.insert(hash, name.to_owned());
        }
        Ok(Self { nodes })
    }

    /// The node that `token` is for. Looked up by its hash, so that the time it takes tells nothing of the tokens there are.
    pub fn node(&self, token: &str) -> Option<String> {
        self.nodes.get(&Digest::of(token.as_bytes())).cloned()
    }
}

/// Makes a token for `node`, puts its hash into the file, and returns it. It is nowhere else.
///
/// # Errors
/// When the name is none, or the file cannot be written.
pub fn make_token(path: &Path, node: &str) -> Result<String, TokenError> {
    if !is_name(node) {
        return Err(TokenError::Name(node.to_owned()));
    }
    let file = |source| TokenError::File { path: path.to_owned(), source };
    let mut random = [0; 32];
    std::fs::File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut random)).map_err(file)?;
    let token: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut out = std::fs::File::options().create(true).append(true).open(path).map_err(file)?;
    writeln!(out, "{node} {}", Digest::of(token.as_bytes())).map_err(file)?;
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_speaks_for_its_node_and_no_other_text_for_any() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        let (one, two) = (make_token(&path, "node-1").unwrap(), make_token(&path, "node-2").unwrap());
        let tokens = Tokens::read(&path).unwrap();
        assert_eq!(tokens.node(&one).as_deref(), Some("node-1"));
        assert_eq!(tokens.node(&two).as_deref(), Some("node-2"));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&one), "the file does not hold the token");
        for other in ["", "node-1", text.split(' ').nth(1).unwrap().trim()] {
            assert_eq!(tokens.node(other), None);
        }
    }

    #[test]
    fn a_file_that_is_none_is_said_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        std::fs::write(&path, "# nodes\n\nnode-1 secret\n").unwrap();
        assert!(Tokens::read(&path).unwrap_err().to_string().contains("tokens:3: not"));
        assert!(make_token(&path, "two words").is_err());
    }
}
