//! Authentication of nodes: the trait [`Identify`], and the token file that implements it, with one node name and hash per line.
//!
//! A node may have several lines: to replace a token, add the new one, restart the agent with it, and remove the old line.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use outcrop_proto::Digest;

use super::pods::Binding;
use crate::problems::Problems;
use crate::token::{self, Watched};

/// Why tokens could not be read or created.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file could not be read or written.
    #[error("opening token file {path}: {source}", path = .path.display())]
    File {
        /// The path of the file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A line is malformed.
    #[error("reading tokens from {path}: line {line}: expected \"NODE sha256:HASH\"; create lines with outcrop token new NODE --tokens FILE", path = .path.display())]
    Line {
        /// The path of the file.
        path: PathBuf,
        /// The number of the line, from 1.
        line: usize,
    },
    /// Two nodes have the same token.
    #[error("reading tokens from {path}: line {line}: another node has the same token; create one token per node with outcrop token new NODE --tokens FILE", path = .path.display())]
    Shared {
        /// The path of the file.
        path: PathBuf,
        /// The number of the line, from 1.
        line: usize,
    },
    /// The name of the node is invalid.
    #[error("invalid node name {0:?}: expected at most 253 letters, digits, '-', '.' and '_'")]
    Name(String),
}

/// An authenticated node.
#[derive(Clone, Debug)]
pub struct Speaker {
    /// Name of the node that the token belongs to.
    pub node: String,
    /// The token, for [`Identify::still_valid`].
    pub credential: Credential,
}

/// The data to check later whether a token is still valid. A stream keeps it until its end. It does not contain the token.
#[derive(Clone, Debug)]
pub struct Credential {
    digest: Digest,
    binding: Option<Arc<Binding>>,
}

impl Credential {
    /// Returns a credential that is looked up by the token's digest.
    pub(super) fn listed(digest: Digest) -> Self {
        Self { digest, binding: None }
    }

    /// Returns a credential that is bound to a pod.
    pub(super) fn bound(digest: Digest, binding: Arc<Binding>) -> Self {
        Self { digest, binding: Some(binding) }
    }

    /// Returns the pod and node that the token was issued for, if it is bound to a pod.
    pub(super) fn binding(&self) -> Option<&Binding> {
        self.binding.as_deref()
    }
}

impl PartialEq for Credential {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for Credential {}

/// Why a node is not authenticated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The token is unknown.
    #[error("unknown token; create one with outcrop token new NODE --tokens FILE")]
    Unknown,
    /// The token is valid, and does not belong to a node's agent.
    #[error("{0}")]
    Refused(String),
    /// The token could not be verified at the moment.
    #[error("the token cannot be verified at the moment: {0}")]
    Unavailable(String),
}

/// The result of an authentication.
pub type Identified<'a> = Pin<Box<dyn Future<Output = Result<Speaker, Denied>> + Send + 'a>>;

/// Authenticates nodes by their tokens. A node may report for itself only: the caller rejects reports about other nodes.
pub trait Identify: fmt::Debug + Send + Sync {
    /// Returns the node that `token` belongs to.
    fn node<'a>(&'a self, token: &'a str) -> Identified<'a>;

    /// Returns whether a stream that was opened with this token may continue. It is called for every stream every second, so it must answer from memory.
    fn still_valid(&self, node: &str, credential: &Credential) -> bool;

    /// Reloads the known tokens. It is called before [`Self::still_valid`], and may read a file.
    fn refresh(&self) {}
}

/// The hashes of tokens, each with its node.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    nodes: HashMap<Digest, String>,
}

impl Tokens {
    /// Reads a token file.
    ///
    /// # Errors
    /// When the file cannot be read, or a line is invalid.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let file = |source| TokenError::File { path: path.to_owned(), source };
        Self::parse(path, &token::read_text(path).map_err(file)?)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, TokenError> {
        let mut nodes: HashMap<Digest, String> = HashMap::new();
        for (number, line) in token::lines(text) {
            let path = path.to_owned();
            let parsed = line.split_once(' ').filter(|(name, _)| token::is_name(name));
            let parsed = parsed.and_then(|(name, hash)| Some((name, hash.trim().parse::<Digest>().ok()?)));
            let Some((name, hash)) = parsed else { return Err(TokenError::Line { path, line: number }) };
            if nodes.insert(hash, name.to_owned()).is_some_and(|other| other != name) {
                return Err(TokenError::Shared { path, line: number });
            }
        }
        Ok(Self { nodes })
    }

    /// Returns the node that `token` belongs to. It is looked up by its hash, so that the duration reveals nothing about other tokens.
    pub fn node(&self, token: &str) -> Option<String> {
        self.nodes.get(&Digest::of(token.as_bytes())).cloned()
    }
}

/// The token file, reloaded when it changes. If the new version is invalid, the tokens of the last valid version stay in use, and
/// a problem is raised.
#[derive(Debug)]
pub struct TokenFile(Watched<Tokens, TokenError>);

impl TokenFile {
    /// Opens a token file. Later versions that are invalid are raised in `problems`.
    ///
    /// # Errors
    /// When the file cannot be read, or a line is invalid.
    pub fn open(path: &Path, problems: Problems) -> Result<Self, TokenError> {
        Watched::open(path, problems, Tokens::read).map(Self)
    }
}

impl Identify for TokenFile {
    fn node<'a>(&'a self, token: &'a str) -> Identified<'a> {
        Box::pin(async move {
            let token = Digest::of(token.as_bytes());
            let node = self.0.fresh().tokens.nodes.get(&token).cloned();
            let credential = Credential::listed(token);
            node.map(|node| Speaker { node, credential }).ok_or(Denied::Unknown)
        })
    }

    fn still_valid(&self, node: &str, credential: &Credential) -> bool {
        self.0.known().tokens.nodes.get(&credential.digest).is_some_and(|of| of == node)
    }

    fn refresh(&self) {
        drop(self.0.fresh());
    }
}

/// Creates a token for `node`, appends its hash to the file, and returns the token, which is not stored.
///
/// # Errors
/// When the name is invalid, or the file cannot be written or is not a token file of nodes.
pub fn make_token(path: &Path, node: &str) -> Result<String, TokenError> {
    if !token::is_name(node) {
        return Err(TokenError::Name(node.to_owned()));
    }
    // Nothing is appended to a file that is none, such as the one of the API's users.
    if path.exists() {
        Tokens::read(path)?;
    }
    token::add(path, |hash| format!("{node} {hash}"))
        .map_err(|source| TokenError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_token_speaks_for_its_node_and_no_other_text_for_any() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        let (one, two) = (make_token(&path, "node-1").unwrap(), make_token(&path, "node-2").unwrap());
        let tokens = Tokens::read(&path).unwrap();
        assert_eq!(tokens.node(&one).as_deref(), Some("node-1"));
        assert_eq!(tokens.node(&two).as_deref(), Some("node-2"));
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&one), "the file does not hold the token");
        for other in ["", "node-1", text.split(' ').nth(1).unwrap().trim()] {
            assert_eq!(tokens.node(other), None);
        }
    }

    #[test]
    fn a_file_that_is_none_is_said_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        fs::write(&path, "# nodes\n\nnode-1 secret\n").unwrap();
        assert!(Tokens::read(&path).unwrap_err().to_string().contains("tokens: line 3: expected"));
        assert!(make_token(&path, "two words").is_err());
    }

    fn node(file: &TokenFile, token: &str) -> Result<String, Denied> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(file.node(token)).map(|speaker| speaker.node)
    }

    #[test]
    fn a_node_changes_its_token_without_being_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        let old = make_token(&path, "node-1").unwrap();
        let file = TokenFile::open(&path, Problems::default()).unwrap();
        assert_eq!(node(&file, &old).as_deref(), Ok("node-1"));
        let first = fs::read_to_string(&path).unwrap();

        let new = make_token(&path, "node-1").unwrap();
        for token in [&old, &new] {
            assert_eq!(node(&file, token).as_deref(), Ok("node-1"));
        }
        let credential = |token: &str| Credential::listed(Digest::of(token.as_bytes()));
        let both = fs::read_to_string(&path).unwrap();
        fs::write(&path, both.strip_prefix(&first).unwrap()).unwrap();
        assert!(file.still_valid("node-1", &credential(&old)), "nobody has looked");
        file.refresh();
        assert!(!file.still_valid("node-1", &credential(&old)), "its streams end");
        assert!(file.still_valid("node-1", &credential(&new)));
        assert!(!file.still_valid("node-2", &credential(&new)), "of another node");
        assert_eq!(node(&file, &old), Err(Denied::Unknown));
    }

    #[test]
    fn a_file_that_turns_bad_changes_nothing_and_is_told_of() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        let token = make_token(&path, "node-1").unwrap();
        let good = fs::read_to_string(&path).unwrap();
        let problems = Problems::default();
        let file = TokenFile::open(&path, problems.clone()).unwrap();
        let problem = || problems.list().into_iter().next().map(|problem| problem.message);
        let twice = format!("{good}node-2 {}", good.split(' ').nth(1).unwrap());
        for (bad, reason) in [
            ("node-1 half", "tokens: line 1: expected"),
            (twice.as_str(), "tokens: line 2: another node has the same token"),
        ] {
            fs::write(&path, bad).unwrap();
            assert_eq!(node(&file, &token).as_deref(), Ok("node-1"));
            assert!(problem().unwrap().contains(reason), "{:?}", problem());
        }
        fs::remove_file(&path).unwrap();
        file.refresh();
        assert_eq!(node(&file, &token).as_deref(), Ok("node-1"));
        assert!(problem().unwrap().contains("No such file"));
        fs::write(&path, &good).unwrap();
        file.refresh();
        assert_eq!(problem(), None);
    }

    #[test]
    fn a_token_is_added_to_a_file_whose_last_line_does_not_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        fs::write(&path, "# by hand").unwrap();
        let token = make_token(&path, "node-1").unwrap();
        assert_eq!(Tokens::read(&path).unwrap().node(&token).as_deref(), Some("node-1"));
    }
}
