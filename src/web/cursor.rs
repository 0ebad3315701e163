//! Sealed cursors: what the API returns as `continue`.
//!
//! The end of a page, as [`list`](super::list) encodes it, contains row ids of the store. They are assigned across all namespaces, so they would
//! reveal to a tenant how much the others have. A cursor is therefore encrypted and authenticated, with a key that exists in this process only, and bound to
//! its caller, list, filters and sort order: nobody can read, change or reuse it elsewhere.
//!
//! The nonce is derived from the content (a synthetic IV, [RFC 5297](https://www.rfc-editor.org/rfc/rfc5297)): equal pages have equal cursors and
//! ETags, and a nonce does not count the cursors of other callers.

use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac::{self, HMAC_SHA256};
use ring::rand::{SecureRandom as _, SystemRandom};

use super::access::Caller;
use super::list::Resource;
use super::problem::Problem;
use super::source::List;

/// Maximum size of a sealed cursor, in bytes.
const MAX_SEALED: usize = 16 << 10;

/// Seals and opens cursors with the key of this process.
#[derive(Debug)]
pub(super) struct Cursors(Option<Keys>);

#[derive(Debug)]
struct Keys {
    content: LessSafeKey,
    nonces: hmac::Key,
}

/// The request that a cursor is bound to, encoded.
#[derive(Debug)]
pub(super) struct Binding(Vec<u8>);

impl Binding {
    /// Binds to the caller, the list, its filters and its sort order. `question` is the parameter `q` of a list that has one.
    pub(super) fn new(caller: &Caller, resource: &Resource, list: &List, question: &str) -> Result<Self, Problem> {
        let List { filters, sort, descending, limit: _, cursor: _ } = list;
        let parts = (caller.identity.to_string(), resource.name, filters, sort, descending, question);
        serde_json::to_vec(&parts).map(Self).map_err(|_| Problem::defect())
    }
}

impl Cursors {
    /// Creates the key.
    pub(super) fn new() -> Self {
        Self(Keys::new().ok())
    }

    /// Replaces the content of a cursor by its sealed form.
    pub(super) fn seal(&self, binding: &Binding, cursor: &mut Option<String>) -> Result<(), Problem> {
        let Some(content) = cursor.take() else { return Ok(()) };
        *cursor = Some(self.keys()?.seal(&binding.0, content).map_err(|_| Problem::defect())?);
        Ok(())
    }

    /// Replaces the sealed form of a cursor by its content.
    pub(super) fn open(&self, binding: &Binding, cursor: &mut Option<String>) -> Result<(), Problem> {
        let Some(sealed) = cursor.take() else { return Ok(()) };
        let content = self.keys()?.open(&binding.0, &sealed).ok_or_else(|| {
            Problem::bad_request(
                "invalid value for continue: the cursor does not belong to this caller, list, filters and sort order, or the aggregator has restarted since; request the first page without it",
            )
        })?;
        *cursor = Some(content);
        Ok(())
    }

    fn keys(&self) -> Result<&Keys, Problem> {
        let none = "cursors are not available: the system provides no random numbers";
        self.0.as_ref().ok_or_else(|| Problem::new(StatusCode::SERVICE_UNAVAILABLE, none))
    }
}

impl Keys {
    fn new() -> Result<Self, ring::error::Unspecified> {
        let random = SystemRandom::new();
        let mut key = [0; 32];
        random.fill(&mut key)?;
        let content = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &key)?);
        Ok(Self { content, nonces: hmac::Key::generate(HMAC_SHA256, &random)? })
    }

    fn seal(&self, binding: &[u8], content: String) -> Result<String, ring::error::Unspecified> {
        let mut derivation = hmac::Context::with_key(&self.nonces);
        derivation.update(&(binding.len() as u64).to_be_bytes());
        derivation.update(binding);
        derivation.update(content.as_bytes());
        let digest = derivation.sign();
        let nonce = digest.as_ref().first_chunk::<NONCE_LEN>().ok_or(ring::error::Unspecified)?;
        let mut sealed = content.into_bytes();
        let unique = Nonce::assume_unique_for_key(*nonce);
        self.content.seal_in_place_append_tag(unique, Aad::from(binding), &mut sealed)?;
        Ok(URL_SAFE_NO_PAD.encode([nonce, sealed.as_slice()].concat()))
    }

    fn open(&self, binding: &[u8], text: &str) -> Option<String> {
        if text.len() > MAX_SEALED {
            return None;
        }
        let mut bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (nonce, sealed) = bytes.split_first_chunk_mut::<NONCE_LEN>()?;
        let content =
            self.content.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(binding), sealed).ok()?;
        String::from_utf8(content.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::super::list::{FINDINGS, PACKAGES, cut};
    use super::super::source::Scope;
    use super::*;

    fn caller(name: &str) -> Caller {
        Caller::new(name, name.as_bytes(), Scope::Namespaces([name.to_owned()].into()), [].into())
    }

    fn binding(name: &str, resource: &Resource, list: &List) -> Binding {
        Binding::new(&caller(name), resource, list, "").unwrap()
    }

    fn seal(cursors: &Cursors, binding: &Binding, content: &str) -> String {
        let mut cursor = Some(content.to_owned());
        cursors.seal(binding, &mut cursor).unwrap();
        cursor.unwrap()
    }

    fn open(cursors: &Cursors, binding: &Binding, sealed: &str) -> Result<String, Problem> {
        let mut cursor = Some(sealed.to_owned());
        cursors.open(binding, &mut cursor).map(|()| cursor.unwrap())
    }

    #[test]
    fn a_cursor_is_opened_by_its_caller_for_its_list_filters_and_order_only() {
        let cursors = Cursors::new();
        let list = List { limit: 7, ..List::default() };
        let shop = binding("shop", &FINDINGS, &list);
        let sealed = seal(&cursors, &shop, "content");
        assert_eq!(open(&cursors, &shop, &sealed), Ok("content".to_owned()));
        let longer = binding("shop", &FINDINGS, &List { limit: 9, ..list.clone() });
        assert_eq!(open(&cursors, &longer, &sealed), Ok("content".to_owned()), "the limit may change");
        let filtered = |name: &str| List { filters: vec![(name.to_owned(), "x".to_owned())], ..list.clone() };
        for (what, other) in [
            ("caller", binding("bank", &FINDINGS, &list)),
            ("list", binding("shop", &PACKAGES, &list)),
            ("filter", binding("shop", &FINDINGS, &filtered("node"))),
            ("sort", binding("shop", &FINDINGS, &List { sort: Some("id".to_owned()), ..list.clone() })),
            ("direction", binding("shop", &FINDINGS, &List { descending: true, ..list.clone() })),
            ("question", Binding::new(&caller("shop"), &FINDINGS, &list, "bash").unwrap()),
        ] {
            let problem = open(&cursors, &other, &sealed).unwrap_err();
            assert!(problem.detail().contains("does not belong to this caller"), "another {what}: {problem:?}");
        }
        assert!(open(&Cursors::new(), &shop, &sealed).is_err(), "another process");
        for changed in ["", "x", &sealed[1..], &format!("{sealed}AAAA"), &"A".repeat(MAX_SEALED + 1)] {
            assert!(open(&cursors, &shop, changed).is_err(), "{changed}");
        }
        for place in 0..sealed.len() {
            let mut changed = sealed.clone().into_bytes();
            changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(open(&cursors, &shop, &changed).is_err(), "the character at {place} is changed");
        }
    }

    #[test]
    fn a_cursor_reveals_neither_its_content_nor_how_large_its_row_ids_are() {
        let cursors = Cursors::new();
        let list = List { limit: 1, ..List::default() };
        let [shop, bank] = ["shop", "bank"].map(|name| binding(name, &PACKAGES, &list));
        let end_at = |id: i64| {
            let rows = [id, id].map(|id| ((Vec::<u64>::new(), "bash".to_owned(), id), ()));
            cut(&PACKAGES, &list, rows).unwrap().next.unwrap()
        };
        let sealed = [7, 1_234_567_890_123].map(|id| seal(&cursors, &shop, &end_at(id)));
        assert_eq!(sealed[0].len(), sealed[1].len(), "the length depends on the row id");
        for sealed in &sealed {
            let bytes = URL_SAFE_NO_PAD.decode(sealed).unwrap();
            for text in ["packages", "bash", "1234567890123"] {
                let is_in = |bytes: &[u8]| bytes.windows(text.len()).any(|part| part == text.as_bytes());
                assert!(!is_in(&bytes) && !is_in(sealed.as_bytes()), "{text} is readable");
            }
        }
        // Equal pages of one caller have equal ETags; those of two callers cannot be compared.
        assert_eq!(seal(&cursors, &shop, &end_at(7)), sealed[0]);
        assert_ne!(seal(&cursors, &bank, &end_at(7)), sealed[0]);
    }
}
