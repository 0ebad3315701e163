//! A bucket of S3-compatible storage as a place for files: AWS S3, MinIO, Garage, Ceph and others.
//!
//! Requests have presigned URLs ([AWS Signature Version 4](https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html)): whoever
//! sees one can repeat this request for five minutes and nothing else. Messages name the host only.

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use outcrop_proto::{Digest, clock};
use rusty_s3::{Bucket, Credentials, S3Action, UrlStyle};
use serde::Deserialize;
use ureq::http::Method;

use crate::deliver::client::{Answer, Client, Request, SendError};
use crate::deliver::connection::Url;
use crate::deliver::document::{Place, PlaceError, media_type};
use crate::deliver::retry::Verdict;
use crate::deliver::secret;

/// For how long a signature is valid: for one request, and clocks that differ.
const VALID: Duration = Duration::from_secs(300);

/// A bucket.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Written")]
pub struct S3 {
    bucket: Bucket,
    /// The URL that is contacted.
    url: Url,
    /// Prefix of all keys; empty, or with `/` at its end.
    prefix: String,
    access_key_id_file: PathBuf,
    secret_access_key_file: PathBuf,
    session_token_file: Option<PathBuf>,
    encryption: Option<Encryption>,
    report_days: u16,
}

/// A bucket as it is written.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    url: Url,
    bucket: String,
    #[serde(default = "region")]
    region: String,
    #[serde(default)]
    prefix: String,
    /// Puts the bucket into the path of URLs, not into the name of the host.
    #[serde(default = "path_style")]
    path_style: bool,
    access_key_id_file: PathBuf,
    secret_access_key_file: PathBuf,
    #[serde(default)]
    session_token_file: Option<PathBuf>,
    #[serde(default)]
    server_side_encryption: Option<Encryption>,
    #[serde(default = "super::report_days")]
    report_days: u16,
}

/// Encryption by the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Encryption {
    /// With keys of the storage.
    #[serde(rename = "AES256")]
    Storage,
    /// With the bucket's key of a key management service.
    #[serde(rename = "aws:kms")]
    KeyManagement,
}

impl Encryption {
    const fn word(self) -> &'static str {
        match self {
            Self::Storage => "AES256",
            Self::KeyManagement => "aws:kms",
        }
    }
}

fn region() -> String {
    "us-east-1".to_owned()
}

const fn path_style() -> bool {
    true
}

impl TryFrom<Written> for S3 {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let Written { url, bucket, region, prefix, path_style, .. } = written;
        let prefix = prefix.trim_matches('/');
        if prefix.split('/').any(|part| matches!(part, "." | "..")) || prefix.contains("//") {
            return Err("prefix: expected names with `/` between them".to_owned());
        }
        if url.uri().query().is_some() {
            return Err("url: expected the endpoint, without a query".to_owned());
        }
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(is_plain) || bucket.starts_with('.') {
            return Err(format!("bucket: {bucket:?} is not the name of a bucket"));
        }
        let style = if path_style { UrlStyle::Path } else { UrlStyle::VirtualHost };
        let endpoint = url.uri().to_string().parse().map_err(|_| "url: not a URL".to_owned())?;
        let bucket = Bucket::new(endpoint, style, bucket, region).map_err(|error| format!("bucket: {error}"))?;
        Ok(Self {
            url: bucket.base_url().to_string().try_into()?,
            bucket,
            prefix: if prefix.is_empty() { String::new() } else { format!("{prefix}/") },
            access_key_id_file: written.access_key_id_file,
            secret_access_key_file: written.secret_access_key_file,
            session_token_file: written.session_token_file,
            encryption: written.server_side_encryption,
            report_days: written.report_days,
        })
    }
}

impl S3 {
    /// Returns the URL that is contacted.
    pub(super) const fn url(&self) -> &Url {
        &self.url
    }

    /// Returns bucket and prefix at their host, for people.
    pub(super) fn address(&self) -> String {
        format!("{} {}/{}", self.url.origin(), self.bucket.name(), self.prefix)
    }

    /// Returns what tells this place from others.
    pub(super) fn identity(&self) -> String {
        format!("{} {}", self.url.uri(), self.prefix)
    }

    fn credentials(&self) -> Result<Credentials, SendError> {
        let key = secret::read_text(&self.access_key_id_file).map_err(SendError)?;
        let secret = secret::read_text(&self.secret_access_key_file).map_err(SendError)?;
        Ok(match &self.session_token_file {
            Some(path) => Credentials::new_with_token(key, secret, secret::read_text(path).map_err(SendError)?),
            None => Credentials::new(key, secret),
        })
    }

    /// Signs an action with these headers, and sends it.
    fn send<'a>(
        &'a self,
        client: &Client,
        action: impl S3Action<'a>,
        method: Method,
        headers: Vec<(&'static str, String)>,
        body: &[u8],
    ) -> Result<(), PlaceError> {
        let url = Url::try_from(sign(action, &headers, &clock::timestamp())).map_err(SendError)?;
        let mut answer = client.send(&Request { method, url: &url, headers, body })?;
        answer.text = describe(&answer.text);
        match answer.verdict {
            Verdict::Accepted => Ok(()),
            _ => Err(PlaceError::Refused(lenient(answer))),
        }
    }

    /// Returns the headers of a file.
    fn headers(&self, path: &str, content: &[u8]) -> Vec<(&'static str, String)> {
        let mut headers = vec![
            ("content-type", media_type(path).to_owned()),
            ("x-amz-checksum-sha256", STANDARD.encode(Digest::of(content).0)),
        ];
        if let Some(encryption) = self.encryption {
            headers.push(("x-amz-server-side-encryption", encryption.word().to_owned()));
        }
        headers
    }
}

/// Returns the signed URL of an action with these headers.
fn sign<'a>(mut action: impl S3Action<'a>, headers: &[(&'static str, String)], at: &Timestamp) -> String {
    for (name, value) in headers {
        action.headers_mut().insert(*name, value.clone());
    }
    action.sign_with_time(VALID, at).to_string()
}

/// Returns an answer whose refusal is about the configuration as one to retry: a wrong region and a token that expired have the status 400. A file
/// itself is never wrong.
fn lenient(answer: Answer) -> Answer {
    let verdict = if answer.status == 413 { answer.verdict } else { Verdict::Retry };
    Answer { verdict, ..answer }
}

/// Returns code and message of an error of S3 (<https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>); of another text, its beginning.
fn describe(text: &str) -> String {
    let element = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        Some(rest.split_once('<')?.0)
    };
    match (element("Code"), element("Message")) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        _ => text.chars().take(200).collect(),
    }
}

impl Place for S3 {
    fn report_days(&self) -> u16 {
        self.report_days
    }

    fn put(&self, client: &Client, path: &str, content: &[u8]) -> Result<(), PlaceError> {
        let credentials = self.credentials()?;
        let key = format!("{}{path}", self.prefix);
        let action = self.bucket.put_object(Some(&credentials), &key);
        self.send(client, action, Method::PUT, self.headers(path, content), content)
    }

    fn remove(&self, client: &Client, path: &str) -> Result<(), PlaceError> {
        let credentials = self.credentials()?;
        let key = format!("{}{path}", self.prefix);
        let action = self.bucket.delete_object(Some(&credentials), &key);
        match self.send(client, action, Method::DELETE, Vec::new(), &[]) {
            // Some servers say so of an object that is not there.
            Err(PlaceError::Refused(answer)) if answer.status == 404 && answer.text.starts_with("NoSuchKey") => Ok(()),
            outcome => outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(more: &str) -> Result<S3, String> {
        let text = format!(
            "{{url: 'https://s3.eu-central-1.amazonaws.com', bucket: results, accessKeyIdFile: /i, secretAccessKeyFile: /s, {more}}}"
        );
        serde_saphyr::from_str(&text).map_err(|error| error.without_snippet().to_string())
    }

    /// The signatures are botocore's (1.44.8, `S3SigV4QueryAuth`).
    #[test]
    fn requests_are_signed_as_the_library_of_aws_signs_them() {
        let s3 = bucket("region: eu-central-1, pathStyle: false, serverSideEncryption: AES256").unwrap();
        let at: Timestamp = "2026-11-30T10:00:00Z".parse().unwrap();
        let path = "clusters/a/containers/n%2F1/%2Ex.cdx.json";
        let signature = |credentials: Credentials| {
            let action = s3.bucket.put_object(Some(&credentials), path);
            let url = sign(action, &s3.headers(path, b"content"), &at);
            let (address, query) = url.split_once('?').unwrap();
            assert_eq!(
                address,
                "https://results.s3.eu-central-1.amazonaws.com/clusters/a/containers/n%252F1/%252Ex.cdx.json"
            );
            query.split('&').find_map(|pair| pair.strip_prefix("X-Amz-Signature=")).unwrap().to_owned()
        };
        let (key, secret) = ("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");
        assert_eq!(
            [signature(Credentials::new(key, secret)), signature(Credentials::new_with_token(key, secret, "TOKEN"))],
            [
                "f48851768afb2677d7b5b0a5ed5deeb2f1b5654cbc619149e7940c6f378481aa",
                "6336de8197cd39becb53c7afb7bd58bc41911496d966bbc2b25ef4ea74d4d276"
            ]
        );
    }

    #[test]
    fn the_bucket_is_in_the_path_or_in_the_name_of_the_host() {
        for (more, contacts, shown) in [
            ("", "https://s3.eu-central-1.amazonaws.com/results/", "https://s3.eu-central-1.amazonaws.com results/"),
            (
                "pathStyle: false, prefix: /a/b/",
                "https://results.s3.eu-central-1.amazonaws.com/",
                "https://results.s3.eu-central-1.amazonaws.com results/a/b/",
            ),
        ] {
            let s3 = bucket(more).unwrap();
            assert_eq!((s3.url().uri().to_string().as_str(), s3.address().as_str()), (contacts, shown), "{more}");
        }
        for (more, says) in [
            ("prefix: a/../b", "prefix"),
            ("prefix: a//b", "prefix"),
            ("serverSideEncryption: none", "AES256"),
            ("acl: public", "unknown field `acl`"),
        ] {
            let error = bucket(more).unwrap_err();
            assert!(error.contains(says), "{more}: {error}");
        }
    }

    #[test]
    fn an_error_is_shown_with_code_and_message() {
        let text =
            "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code><Message>Access Denied</Message><HostId>x</HostId>";
        assert_eq!(describe(text), "AccessDenied: Access Denied");
        assert_eq!(describe("<Error><Code>NoSuchKey</Code>"), "NoSuchKey");
        assert_eq!(describe("busy"), "busy");
        let answer = |status| Answer { status, verdict: Verdict::of(status), retry_after: None, text: String::new() };
        let verdicts = [400, 403, 404, 413, 503].map(|status| lenient(answer(status)).verdict);
        assert_eq!(verdicts, [Verdict::Retry, Verdict::Retry, Verdict::Retry, Verdict::Refused, Verdict::Retry]);
    }
}
