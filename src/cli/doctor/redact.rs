//! Removal of secrets from a support archive. When in doubt, a string is removed.
//!
//! Two passes. The first removes fields of Kubernetes objects that can hold secrets: values of environment variables, annotations, and
//! values of arguments with a secret-like name. The second inspects every string of every file: tokens, keys, passwords in URLs, and the
//! word after a name such as `password`.

use serde_json::{Map, Value};

/// Replacement for removed text.
const CUT: &str = "REMOVED";

/// Substrings of names whose values are secrets.
const SECRET: &[&str] = &[
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "apikey",
    "api_key",
    "accesskey",
    "access_key",
    "privatekey",
    "private_key",
    "credential",
    "authorization",
    "cookie",
    "session_key",
];

/// Suffixes of names whose values describe a secret: its location or its lifetime.
const HARMLESS: &[&str] =
    &["name", "names", "file", "path", "seconds", "days", "audience", "secretref", "secrets", "tokenreviews"];

/// Prefixes of keys that public services issue.
const KEYS: &[&str] =
    &["AKIA", "ASIA", "ghp_", "gho_", "ghs_", "github_pat_", "glpat-", "xoxb-", "xoxp-", "sk-", "npm_", "dckr_pat_"];

/// Returns whether the value of a field with this name is a secret.
fn is_secret(name: &str) -> bool {
    let name = name.trim_start_matches('-').to_ascii_lowercase().replace(['-', '.'], "_");
    SECRET.iter().any(|part| name.contains(part)) && !HARMLESS.iter().any(|end| name.ends_with(end))
}

/// Redacts a Kubernetes object: fields that can hold secrets, then every string.
pub(super) fn object(mut value: Value) -> Value {
    by_place(&mut value);
    self::value(value)
}

/// Redacts JSON: every string, and the values of fields with a secret-like name.
pub(super) fn value(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(self::text(&text)),
        Value::Array(items) => Value::Array(items.into_iter().map(self::value).collect()),
        Value::Object(map) => {
            let cut = |(key, value): (String, Value)| match value {
                Value::String(text) if is_secret(&key) && !text.is_empty() => (key, Value::String(CUT.to_owned())),
                other => (text(&key), self::value(other)),
            };
            Value::Object(map.into_iter().map(cut).collect::<Map<_, _>>())
        }
        other => other,
    }
}

fn by_place(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(by_place),
        Value::Object(map) => {
            map.remove("managedFields");
            // Annotations can hold anything; kubectl stores whole objects there.
            map.remove("annotations");
            for (key, value) in map.iter_mut() {
                match (key.as_str(), value) {
                    ("env" | "httpHeaders", Value::Array(variables)) => {
                        for variable in variables.iter_mut().filter_map(Value::as_object_mut) {
                            if variable.contains_key("value") {
                                variable.insert("value".to_owned(), Value::String(CUT.to_owned()));
                            }
                        }
                    }
                    ("args" | "command", Value::Array(words)) => arguments(words),
                    (_, value) => by_place(value),
                }
            }
        }
        _ => {}
    }
}

/// Removes the `x` of `--password=x` and `--password x`.
fn arguments(words: &mut [Value]) {
    let mut next = false;
    for word in words {
        let Value::String(text) = word else { continue };
        let is_flag = text.starts_with('-');
        if next && !is_flag {
            CUT.clone_into(text);
            next = false;
        } else if let Some((name, _)) = text.split_once('=') {
            next = false;
            if is_secret(name) {
                *text = format!("{name}={CUT}");
            }
        } else {
            next = is_flag && is_secret(text);
        }
    }
}

/// Redacts text line by line.
pub(super) fn text(text: &str) -> String {
    let without_keys = private_keys(text);
    without_keys.split_inclusive('\n').map(line).collect()
}

/// Removes PEM private keys, also if the end marker is missing.
fn private_keys(text: &str) -> String {
    const BEGIN: &str = "-----BEGIN ";
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(BEGIN) {
        let (before, block) = rest.split_at(start);
        let label = block.strip_prefix(BEGIN).and_then(|label| label.split("-----").next()).unwrap_or_default();
        let end = block.find("-----END ").map_or(block.len(), |end| {
            let after = block.get(end + 9..).unwrap_or_default();
            after.find("-----").map_or(block.len(), |close| end + 9 + close + 5)
        });
        let (whole, after) = block.split_at(end);
        out.push_str(before);
        out.push_str(if label.contains("PRIVATE KEY") { CUT } else { whole });
        rest = after;
    }
    out.push_str(rest);
    out
}

/// Returns whether a character separates words. A colon separates only next to another separator, so `sha256:…` and `https://…` stay words.
fn is_between(character: char) -> bool {
    character.is_whitespace() || "\"'`,;()[]{}<>=|&?\\".contains(character)
}

/// Removes the credentials of `scheme://user:password@host`.
fn without_users(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after.find(|character: char| character.is_whitespace() || "/\"'".contains(character));
        let (authority, after) = after.split_at(end.unwrap_or(after.len()));
        match authority.rsplit_once('@') {
            Some((_, host)) => out.push_str(&format!("{CUT}@{host}")),
            None => out.push_str(authority),
        }
        rest = after;
    }
    out + rest
}

/// Treatment of the text after a word.
#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    /// Keep it.
    Word,
    /// The word names a secret: remove the value after `=` or `:`, or after a flag.
    Name { flag: bool },
    /// The word names a header: remove its whole value.
    Header,
    /// The word is an authentication scheme such as `Bearer`: always remove the next word.
    Scheme,
}

fn line(line: &str) -> String {
    let line = without_users(line);
    let mut out = String::with_capacity(line.len());
    let mut after = After::Word;
    let mut rest = line.as_str();
    while !rest.is_empty() {
        let gap = rest.find(|character: char| !is_between(character) && character != ':').unwrap_or(rest.len());
        let (between, at_word) = rest.split_at(gap);
        out.push_str(between);
        if at_word.is_empty() {
            break;
        }
        let is_value = between.contains(['=', ':']);
        let hidden = match after {
            After::Word => 0,
            After::Scheme => value_length(between, at_word),
            After::Header if is_value => header(at_word),
            After::Name { .. } if is_value => value_length(between, at_word),
            After::Name { flag: true } if between.trim().is_empty() && !at_word.starts_with('-') => {
                value_length(between, at_word)
            }
            After::Header | After::Name { .. } => 0,
        };
        let (word, others) = at_word.split_at(word(at_word));
        let is_scheme =
            |word: &str| ["bearer", "basic", "token"].iter().any(|scheme| scheme.eq_ignore_ascii_case(word));
        if after == After::Header && is_value && is_scheme(word) {
            // Keep the authentication scheme, remove the credentials.
            out.push_str(word);
            let (_, left) = others.split_at(header(others));
            out.push_str(&format!(" {CUT}"));
            (rest, after) = (left, After::Word);
            continue;
        }
        let (value, left) = at_word.split_at(hidden);
        if hidden > 0 && !is_plain(value) {
            out.push_str(CUT);
            (rest, after) = (left, After::Word);
            continue;
        }
        rest = others;
        after = match word.split_once(':').filter(|(name, value)| is_secret(name) && !value.starts_with("//")) {
            Some((name, _)) => {
                out.push_str(&format!("{name}:{CUT}"));
                After::Word
            }
            None => {
                out.push_str(&shape(word));
                kind(word)
            }
        };
    }
    out
}

fn kind(word: &str) -> After {
    let lower = word.to_ascii_lowercase();
    if lower == "bearer" {
        After::Scheme
    } else if lower.ends_with("authorization") || lower.ends_with("cookie") {
        After::Header
    } else if is_secret(word) {
        After::Name { flag: word.starts_with("--") }
    } else {
        After::Word
    }
}

/// Returns the length of the value at the start of `text`: up to the closing quote in `between`, or up to the next space.
fn value_length(between: &str, text: &str) -> usize {
    let quotes = ["\\\"", "\"", "'", "`"];
    let end = match quotes.iter().find(|quote| between.ends_with(**quote)) {
        Some(quote) => text.find(quote),
        None => text.find(|character: char| character.is_whitespace() || "\"'`&".contains(character)),
    };
    end.unwrap_or(text.trim_end_matches(['\r', '\n']).len())
}

/// Returns the length of the header value at the start of `text`: up to the end of the line or of the enclosing string.
fn header(text: &str) -> usize {
    text.find(['"', '\'', '\r', '\n']).unwrap_or(text.len())
}

/// Returns the length of the word at the start of `text`.
fn word(text: &str) -> usize {
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        let ends = match character {
            ':' => characters.peek().is_none_or(|(_, next)| is_between(*next)),
            other => is_between(other),
        };
        if ends {
            return at;
        }
    }
    text.len()
}

/// Returns whether a value is never a secret: small numbers and booleans.
fn is_plain(word: &str) -> bool {
    let word = word.trim_end_matches([',', ';', '.', ')', ']', '}']);
    (word.len() < 6 && word.bytes().all(|byte| byte.is_ascii_digit()))
        || matches!(word, "true" | "false" | "null" | "none")
        || word == CUT
}

/// Redacts a word that looks like a secret.
fn shape(word: &str) -> String {
    // JSON Web Tokens, complete or truncated: the first segment is the start of a JSON object in base64.
    if let Some(start) = word.find("eyJ") {
        let (before, token) = word.split_at(start);
        let is_of_token = |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.');
        let end = token.find(|character| !is_of_token(character)).unwrap_or(token.len());
        if end >= 16 {
            return format!("{before}{CUT}{}", shape(token.get(end..).unwrap_or_default()));
        }
    }
    if KEYS.iter().any(|key| word.starts_with(key)) && word.len() >= 16 {
        return CUT.to_owned();
    }
    // Outcrop's own tokens are 64 hexadecimal digits. Digests and container IDs have a prefix, so they are kept.
    let hexadecimal = |text: &str| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if hexadecimal(word) { CUT.to_owned() } else { word.to_owned() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// A made-up token of the right shape.
    const JWT: &str = "eyJhbGciOiJSUzI1NiJ9.eyJhdWQiOlsib3V0Y3JvcCJdLCJleHAiOjF9.c2lnbmF0dXJlLW9mLWEtdG9rZW4";
    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn secrets_are_removed_and_other_text_is_kept() {
        for (plain, cut) in [
            ("nothing here: 3 of 4, sha256:0123", "nothing here: 3 of 4, sha256:0123"),
            ("Authorization: Bearer s3cr3t!/+x", "Authorization: Bearer REMOVED"),
            ("got 'bearer abc' twice", "got 'bearer REMOVED' twice"),
            (r#"{"token":"abc","n":1}"#, r#"{"token":"REMOVED","n":1}"#),
            ("{\\\"password\\\": \\\"abc\\\"}", "{\\\"password\\\": \\\"REMOVED\\\"}"),
            ("password=abc&user=x", "password=REMOVED&user=x"),
            ("DB_PASSWORD: abc", "DB_PASSWORD: REMOVED"),
            ("token:abc", "token:REMOVED"),
            ("run --token abc --x", "run --token REMOVED --x"),
            ("--token-file=/etc/x --data=/y", "--token-file=/etc/x --data=/y"),
            ("the token of node a is expired", "the token of node a is expired"),
            ("https://me:pw@host.example/x?y=1", "https://REMOVED@host.example/x?y=1"),
            ("https://me:p,w&?x@host.example", "https://REMOVED@host.example"),
            ("https://host.example:7443/x", "https://host.example:7443/x"),
            ("Authorization: Basic bWU6cHc=", "Authorization: Basic REMOVED"),
            ("Authorization: Negotiate a b, c\n", "Authorization: REMOVED\n"),
            ("Cookie: a=b; c=d", "Cookie: REMOVED"),
            ("-H 'Authorization: Bearer a.b' -x", "-H 'Authorization: Bearer REMOVED' -x"),
            ("password: \"a,b {c}\" user", "password: \"REMOVED\" user"),
            ("password=a,b{c}=d&user=x", "password=REMOVED&user=x"),
            ("secret: true, token: 12", "secret: true, token: 12"),
            ("key AKIAIOSFODNN7EXAMPLE.", "key REMOVED"),
            ("tokenExpirationSeconds: 3600", "tokenExpirationSeconds: 3600"),
        ] {
            assert_eq!(text(plain), cut);
        }
        for (plain, cut) in [
            (JWT.to_owned(), CUT.to_owned()),
            (format!("got {JWT}, refused"), format!("got {CUT}, refused")),
            (format!("/path/{JWT}/x"), format!("/path/{CUT}/x")),
            (format!("own {HEX}"), format!("own {CUT}")),
            (format!("sha256:{HEX}"), format!("sha256:{HEX}")),
            (format!("containerd://{HEX}"), format!("containerd://{HEX}")),
            (
                format!("a\n-----BEGIN EC PRIVATE KEY-----\n{HEX}\n-----END EC PRIVATE KEY-----\nb"),
                format!("a\n{CUT}\nb"),
            ),
            (format!("-----BEGIN PRIVATE KEY-----\n{HEX}"), CUT.to_owned()),
        ] {
            assert_eq!(text(&plain), cut);
        }
        let certificate = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
        assert_eq!(text(certificate), certificate);
    }

    #[test]
    fn fields_that_can_hold_secrets_are_removed() {
        let pod = json!({
            "metadata": { "name": "x", "annotations": { "kubectl.kubernetes.io/last-applied-configuration": "all" }, "managedFields": [1] },
            "spec": {
                "automountServiceAccountToken": true,
                "imagePullSecrets": [{ "name": "registry" }],
                "containers": [{
                    "env": [{ "name": "A", "value": "plain" }, { "name": "B", "valueFrom": { "secretKeyRef": { "name": "s", "key": "k" } } }],
                    "args": ["reader", "--password=a", "--api-key", "b", "--host=/host", "--data=/d"],
                    "livenessProbe": { "httpGet": { "httpHeaders": [{ "name": "X", "value": "c" }] } },
                }],
                "volumes": [{ "projected": { "sources": [{ "serviceAccountToken": { "audience": "outcrop", "path": "token" } }] } }],
            },
        });
        assert_eq!(
            object(pod),
            json!({
                "metadata": { "name": "x" },
                "spec": {
                    "automountServiceAccountToken": true,
                    "imagePullSecrets": [{ "name": "registry" }],
                    "containers": [{
                        "env": [{ "name": "A", "value": CUT }, { "name": "B", "valueFrom": { "secretKeyRef": { "name": "s", "key": "k" } } }],
                        "args": ["reader", format!("--password={CUT}"), "--api-key", CUT, "--host=/host", "--data=/d"],
                    "livenessProbe": { "httpGet": { "httpHeaders": [{ "name": "X", "value": CUT }] } },
                    }],
                    "volumes": [{ "projected": { "sources": [{ "serviceAccountToken": { "audience": "outcrop", "path": "token" } }] } }],
                },
            })
        );
    }

    proptest! {
        #[test]
        fn tokens_are_removed_in_any_context(before in "\\PC{0,20}", after in "[ \"',;)\\]}\\n]\\PC{0,20}") {
            for secret in [JWT.to_owned(), format!("Bearer {HEX}"), format!("password={HEX}")] {
                let cut = text(&format!("{before} {secret}{after}"));
                prop_assert!(!cut.contains(JWT) && !cut.contains(HEX), "{}", cut);
            }
        }
    }
}
