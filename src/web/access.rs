//! Authentication and authorization of callers: the trait [`Authorizer`], and the token file that implements it. The aggregator implements
//! the trait by Kubernetes RBAC, too.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::str::FromStr;

use outcrop_proto::Digest;

use super::source::Scope;
use crate::problems::Problems;
use crate::token::{self, Watched, is_name};

/// A right of a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    /// Read.
    Read,
    /// Replace the advisory database.
    PushDatabase,
    /// Distrust a node, or trust it again.
    ManageNodes,
    /// Test and resynchronize targets of deliveries, and settle refused deliveries.
    ManageDeliveries,
}

impl Right {
    /// Every right.
    pub const ALL: [Self; 4] = [Self::Read, Self::PushDatabase, Self::ManageNodes, Self::ManageDeliveries];

    /// Returns whether the right concerns all of the cluster. A caller who may read some namespaces only cannot use it: its effect and its response would
    /// reveal what is in the others.
    pub fn is_cluster_wide(self) -> bool {
        matches!(self, Self::PushDatabase | Self::ManageNodes | Self::ManageDeliveries)
    }

    /// Returns the name of the right in token files and flags.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::PushDatabase => "push-database",
            Self::ManageNodes => "manage-nodes",
            Self::ManageDeliveries => "manage-deliveries",
        }
    }
}

impl FromStr for Right {
    type Err = AccessError;

    fn from_str(word: &str) -> Result<Self, AccessError> {
        Self::ALL.into_iter().find(|right| right.as_str() == word).ok_or_else(|| AccessError::Right(word.to_owned()))
    }
}

/// An authenticated caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Name.
    pub name: String,
    /// Digest of what identifies the caller: the token, or the user of Kubernetes. Cursors are bound to it.
    pub identity: Digest,
    /// The containers that the caller may read.
    pub scope: Scope,
    /// Rights.
    pub rights: BTreeSet<Right>,
}

impl Caller {
    /// Creates a caller. `identity` is what distinguishes it from all others.
    pub fn new(name: &str, identity: &[u8], scope: Scope, rights: BTreeSet<Right>) -> Self {
        Self { name: name.to_owned(), identity: Digest::of(identity), scope, rights }
    }

    /// Returns what the caller's requests are counted by: its name, or the namespace of a Kubernetes service account, in which a tenant can create many.
    pub fn share(&self) -> Digest {
        const SERVICE_ACCOUNT: &str = "system:serviceaccount:";
        let account = self.name.strip_prefix(SERVICE_ACCOUNT).and_then(|account| account.split_once(':'));
        let share =
            account.map_or(self.name.as_str(), |(namespace, _)| &self.name[..SERVICE_ACCOUNT.len() + namespace.len()]);
        Digest::of(share.as_bytes())
    }
}

/// The permission that a request needs, in the terms of Kubernetes RBAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Permission {
    /// `get`, `list`, `create` or `update`.
    pub verb: &'static str,
    /// `findings`, `workloads`, `databases`, …
    pub resource: &'static str,
}

impl Permission {
    /// The permission to read one object.
    pub const fn get(resource: &'static str) -> Self {
        Self { verb: "get", resource }
    }

    /// The permission to read a list.
    pub const fn list(resource: &'static str) -> Self {
        Self { verb: "list", resource }
    }

    /// The permission to create an object.
    pub const fn create(resource: &'static str) -> Self {
        Self { verb: "create", resource }
    }

    /// The permission to change an object.
    pub const fn update(resource: &'static str) -> Self {
        Self { verb: "update", resource }
    }

    /// Returns whether a request with this permission changes nothing.
    pub fn is_read(self) -> bool {
        matches!(self.verb, "get" | "list")
    }
}

/// Why a caller is not authorized.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The token is missing or unknown.
    Unknown,
    /// The caller lacks the permission in every namespace.
    Forbidden {
        /// Name of the caller.
        name: String,
        /// What is missing, and how to grant it.
        detail: String,
    },
    /// The caller could not be authorized at the moment; the text says why.
    Unavailable(String),
}

/// The result of an authorization, which may take time.
pub type Admission<'a> = Pin<Box<dyn Future<Output = Result<Caller, Denied>> + Send + 'a>>;

/// Authenticates and authorizes callers.
pub trait Authorizer: Send + Sync {
    /// Returns the caller with the token `bearer`, or without a token, and the scope in which they have the permission.
    fn authorize<'a>(&'a self, bearer: Option<&'a str>, permission: Permission) -> Admission<'a>;

    /// Returns the hint for callers without a known token.
    fn hint(&self) -> &'static str {
        "a token is required (Authorization: Bearer TOKEN); create one with outcrop token new --api NAME --tokens FILE"
    }
}

/// Permits every request, for an API that listens on loopback and has no token file.
#[derive(Clone, Copy, Debug)]
pub struct Loopback;

impl Authorizer for Loopback {
    fn authorize<'a>(&'a self, _: Option<&'a str>, _: Permission) -> Admission<'a> {
        let caller = Caller::new("loopback", b"loopback", Scope::All, Right::ALL.into());
        Box::pin(async { Ok(caller) })
    }
}

/// Why tokens of the API could not be read or created.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The file could not be read or written.
    #[error("opening API token file {path}: {source}", path = .path.display())]
    File {
        /// The path of the file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A line is malformed.
    #[error(
        "reading API tokens from {path}: line {line}: expected \"NAME RIGHT[,RIGHT] sha256:HASH [NAMESPACE,...]\"; create lines with outcrop token new --api NAME --tokens FILE",
        path = .path.display()
    )]
    Line {
        /// The path of the file.
        path: PathBuf,
        /// The number of the line, from 1.
        line: usize,
    },
    /// The name of a user or namespace is invalid.
    #[error("invalid name {0:?}: expected at most 253 letters, digits, '-', '.' and '_'")]
    Name(String),
    /// The right does not exist.
    #[error("invalid right {0:?}: expected read, push-database or manage-nodes")]
    Right(String),
    /// The token has no rights.
    #[error("the token has no rights; pass --rights with read, push-database or manage-nodes")]
    Nothing,
    /// The right concerns all of the cluster, and the token only some namespaces.
    #[error("the right {} is cluster-wide, and --namespaces limits the token: omit one of them, or create two tokens", .0.as_str())]
    ClusterWide(Right),
}

/// A token file with one user per line: `NAME RIGHT[,RIGHT] sha256:HASH [NAMESPACE,...]`. A user without namespaces may read all of them. The
/// file is reloaded when it changes; if it cannot be read, the previous tokens stay valid.
#[derive(Debug)]
pub struct TokenFile(Watched<HashMap<Digest, Caller>, AccessError>);

impl TokenFile {
    /// Reads the file. Later versions that are invalid are raised in `problems`.
    ///
    /// # Errors
    /// When it cannot be read, or a line is malformed.
    pub fn open(path: &Path, problems: Problems) -> Result<Self, AccessError> {
        Watched::open(path, problems, read).map(Self)
    }

    /// Returns the caller with this token. The lookup is by hash, so its duration reveals nothing about stored tokens.
    fn caller(&self, token: &str) -> Option<Caller> {
        self.0.fresh().tokens.get(&Digest::of(token.as_bytes())).cloned()
    }
}

impl Authorizer for TokenFile {
    fn authorize<'a>(&'a self, bearer: Option<&'a str>, _: Permission) -> Admission<'a> {
        let caller = bearer.and_then(|token| self.caller(token)).ok_or(Denied::Unknown);
        Box::pin(async { caller })
    }
}

fn read(path: &Path) -> Result<HashMap<Digest, Caller>, AccessError> {
    let text = token::read_text(path).map_err(|source| AccessError::File { path: path.to_owned(), source })?;
    let mut callers = HashMap::new();
    for (number, line) in token::lines(&text) {
        let (hash, caller) = parse(line).ok_or(AccessError::Line { path: path.to_owned(), line: number })?;
        callers.insert(hash, caller);
    }
    Ok(callers)
}

fn parse(line: &str) -> Option<(Digest, Caller)> {
    let mut words = line.split_whitespace();
    let name = words.next().filter(|name| is_name(name))?;
    let rights = words.next()?.split(',').map(Right::from_str).collect::<Result<_, _>>().ok()?;
    let hash: Digest = words.next()?.parse().ok()?;
    let scope = match words.next() {
        None => Scope::All,
        Some(names) if names.split(',').all(is_name) => {
            Scope::Namespaces(names.split(',').map(ToOwned::to_owned).collect())
        }
        Some(_) => return None,
    };
    words.next().is_none().then(|| (hash, Caller::new(name, &hash.0, scope, rights)))
}

/// Creates a token for a user of the API, appends the user with the token's hash to the file, and returns the token, which is not stored.
///
/// # Errors
/// When a name is invalid, `rights` is empty or contains a cluster-wide right for a token with namespaces, or the file cannot be written or is not a token
/// file of the API.
pub fn make_api_token(path: &Path, name: &str, rights: &[Right], namespaces: &[String]) -> Result<String, AccessError> {
    for name in namespaces.iter().map(String::as_str).chain([name]) {
        if !is_name(name) {
            return Err(AccessError::Name(name.to_owned()));
        }
    }
    if rights.is_empty() {
        return Err(AccessError::Nothing);
    }
    if let Some(right) = rights.iter().find(|right| right.is_cluster_wide() && !namespaces.is_empty()) {
        return Err(AccessError::ClusterWide(*right));
    }
    // Nothing is appended to a file that is none, such as the one of the nodes.
    if path.exists() {
        read(path)?;
    }
    let rights: Vec<&str> = rights.iter().map(|right| right.as_str()).collect();
    let line = |hash| format!("{name} {} {hash} {}", rights.join(","), namespaces.join(",")).trim_end().to_owned();
    token::add(path, line).map_err(|source| AccessError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_the_rights_of_its_line_and_other_text_has_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api");
        let names = ["shop".to_owned(), "bank".to_owned()];
        let reader = make_api_token(&path, "ann", &[Right::Read], &names).unwrap();
        let problems = Problems::default();
        let file = TokenFile::open(&path, problems.clone()).unwrap();
        let ann = file.caller(&reader).unwrap();
        assert_eq!((ann.name.as_str(), ann.rights), ("ann", [Right::Read].into()));
        assert!(ann.scope.sees(Some("shop")) && !ann.scope.sees(Some("other")) && !ann.scope.sees(None));
        // Added and removed lines take effect without a restart.
        let admin = make_api_token(&path, "bob", &Right::ALL, &[]).unwrap();
        let bob = file.caller(&admin).unwrap();
        assert_eq!((bob.scope, bob.rights), (Scope::All, Right::ALL.into()));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&reader) && !text.contains(&admin), "the file does not hold the tokens");
        for other in ["", "ann", text.split_whitespace().nth(2).unwrap()] {
            assert_eq!(file.caller(other), None);
        }
        std::fs::write(&path, "# nobody\n").unwrap();
        assert_eq!(file.caller(&admin), None);
        // A malformed file leaves the previous tokens valid; there are none.
        std::fs::write(&path, text.replace("sha256", "sha1")).unwrap();
        assert_eq!(file.caller(&admin), None);
        assert_eq!(problems.list()[0].subject, path.display().to_string());
        std::fs::write(&path, text).unwrap();
        assert!(file.caller(&admin).is_some() && problems.list().is_empty());
    }

    #[test]
    fn service_accounts_of_a_namespace_share_their_turns_and_nobody_else_does() {
        let share = |name: &str| Caller::new(name, b"", Scope::All, [].into()).share();
        let account = share("system:serviceaccount:shop:a");
        assert_eq!(account, share("system:serviceaccount:shop:b"));
        for other in
            ["system:serviceaccount:bank:a", "system:serviceaccount:shopping:a", "shop", "system:serviceaccount:"]
        {
            assert_ne!(account, share(other), "{other}");
        }
        assert_ne!(share("ann"), share("bob"));
    }

    #[test]
    fn a_token_is_added_to_a_file_whose_last_line_does_not_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api");
        std::fs::write(&path, "# by hand").unwrap();
        let token = make_api_token(&path, "ann", &[Right::Read], &[]).unwrap();
        assert_eq!(
            TokenFile::open(&path, Problems::default()).unwrap().caller(&token).map(|caller| caller.name).as_deref(),
            Some("ann")
        );
    }

    #[test]
    fn a_malformed_line_is_an_error_with_its_number() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api");
        let hash = Digest::of(b"x");
        for line in [
            format!("ann {hash}"),
            format!("ann write {hash}"),
            format!("ann read, {hash}"),
            format!("a/b read {hash}"),
            format!("ann read {hash} shop,"),
            format!("ann read {hash} shop bank"),
            "ann read secret".to_owned(),
        ] {
            std::fs::write(&path, format!("# who\n\n{line}\n")).unwrap();
            let error = TokenFile::open(&path, Problems::default()).unwrap_err();
            assert!(error.to_string().contains("api: line 3: expected"), "{line}: {error}");
        }
        for (name, rights, namespaces) in [
            ("two words", &[Right::Read][..], vec![]),
            ("ann", &[], vec![]),
            ("ann", &[Right::Read], vec!["a b".to_owned()]),
            ("ann", &[Right::Read, Right::PushDatabase], vec!["shop".to_owned()]),
            ("ann", &[Right::ManageNodes], vec!["shop".to_owned()]),
        ] {
            assert!(make_api_token(&path, name, rights, &namespaces).is_err());
        }
    }
}
