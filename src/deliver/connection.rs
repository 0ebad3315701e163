//! Connections to targets: addresses, credentials, certificates and proxies.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use ureq::http::Uri;

use super::{Kind, proxy};
use crate::offline::Peer;

/// The settings of a connection, which all kinds of targets share.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Credentials.
    pub authorization: Option<Authorization>,
    /// Certificates.
    pub tls: Tls,
    /// The proxy; by default that of the environment.
    pub proxy: Option<Proxy>,
    /// Longest time for one request with its answer.
    pub timeout: Duration,
    /// Allows credentials without TLS to another host.
    pub insecure: bool,
}

impl Default for Connection {
    fn default() -> Self {
        let timeout = Duration::from_secs(30);
        Self { authorization: None, tls: Tls::default(), proxy: None, timeout, insecure: false }
    }
}

/// Credentials, read from files for each request.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Authorization {
    /// `Authorization: Bearer` with the text of this file.
    BearerTokenFile(PathBuf),
    /// `Authorization: Basic`.
    #[serde(rename_all = "camelCase")]
    Basic {
        /// The user.
        username: String,
        /// File with the password.
        password_file: PathBuf,
    },
    /// A header of another name.
    #[serde(rename_all = "camelCase")]
    Header {
        /// Its name.
        name: String,
        /// File with its value.
        value_file: PathBuf,
    },
}

/// Certificates, PEM.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tls {
    /// File with the CA certificates that the target's certificate is verified with; by default those of the system.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// File with the client's certificate chain.
    #[serde(default)]
    pub cert_file: Option<PathBuf>,
    /// File with its private key.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
}

/// A proxy.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Proxy {
    /// Its URL; empty for none.
    pub url: String,
    /// Hosts that are contacted without it, as in the variable `NO_PROXY`.
    #[serde(default)]
    pub no_proxy: String,
}

/// A URL with scheme `http` or `https`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Url(Uri);

impl TryFrom<String> for Url {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        // The text may contain a password, so the message does not.
        let uri: Uri = text.parse().map_err(|_| "url: not a URL".to_owned())?;
        let authority = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
            return Err("url: expected http://HOST/PATH or https://HOST/PATH".to_owned());
        }
        if authority.contains('@') {
            return Err("url: it contains a user name; use authorization.basic with a passwordFile".to_owned());
        }
        Ok(Self(uri))
    }
}

impl Url {
    /// Returns the URL.
    pub fn uri(&self) -> &Uri {
        &self.0
    }

    /// Returns the host without brackets.
    pub fn host(&self) -> &str {
        self.0.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
    }

    /// Returns the port, also where it is that of the scheme.
    pub fn port(&self) -> u16 {
        self.0.port_u16().unwrap_or(if self.is_secure() { 443 } else { 80 })
    }

    /// Returns whether TLS is used.
    pub fn is_secure(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }

    fn is_loopback(&self) -> bool {
        let ip = self.host().parse::<std::net::IpAddr>();
        self.host() == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
    }

    /// Returns host and port.
    pub(super) fn peer(&self) -> Peer {
        Peer { host: self.host().to_ascii_lowercase(), port: self.port() }
    }

    /// Returns scheme, host and port: paths and queries of webhooks are secrets.
    pub fn origin(&self) -> String {
        let scheme = self.0.scheme_str().unwrap_or_default();
        format!("{scheme}://{}", self.0.authority().map(|authority| authority.as_str()).unwrap_or_default())
    }
}

impl Connection {
    /// Returns what is wrong with it for a target of this kind.
    pub(super) fn check(&self, kind: &Kind) -> Result<(), String> {
        if self.authorization.is_some() && !kind.uses_authorization() {
            return Err(format!("authorization: a target of the kind {} does not use it", kind.word()));
        }
        let has_credentials = self.authorization.is_some() || kind.has_credentials();
        // An address in a file may come later.
        if let Ok(Some(url)) = kind.url()
            && has_credentials
            && !self.insecure
            && !url.is_secure()
            && !url.is_loopback()
        {
            let kind = kind.word();
            return Err(format!("{kind}.url: credentials would be sent without TLS; use https, or set insecure: true"));
        }
        if self.tls.cert_file.is_some() != self.tls.key_file.is_some() {
            return Err("tls: certFile and keyFile belong together".to_owned());
        }
        Ok(())
    }

    /// Returns the host and the port that are contacted for a URL: the proxy's, if there is one.
    ///
    /// # Errors
    /// When the URL of the proxy is wrong.
    pub fn peer(&self, url: &Url) -> Result<Peer, String> {
        let Some(proxy) = self.proxy_url(url) else { return Ok(url.peer()) };
        // As the client does where the scheme is missing.
        let text = if proxy.contains("://") { proxy } else { format!("http://{proxy}") };
        let uri: Uri = text.parse().map_err(|_| "proxy.url: not a URL of a proxy".to_owned())?;
        Ok(Url(uri).peer())
    }

    /// Returns the URL of the proxy for a URL, if there is one.
    pub(super) fn proxy_url(&self, url: &Url) -> Option<String> {
        let configured = self.proxy.as_ref().map(|proxy| (proxy.url.as_str(), proxy.no_proxy.as_str()));
        proxy::for_host(configured, url.is_secure(), url.host(), url.port())
    }
}
