//! Addresses of webhooks. They contain a secret, so they can be in files.

use std::path::PathBuf;

use crate::deliver::client::{Answer, Client, Request, SendError};
use crate::deliver::connection::Url;
use crate::deliver::secret;

/// Returns the URL of a webhook, from the configuration or from a file that is read for each message.
pub(super) fn url(url: Option<&Url>, file: Option<&PathBuf>) -> Result<Url, String> {
    match (url, file) {
        (Some(url), None) => Ok(url.clone()),
        (None, Some(path)) => {
            Url::try_from(secret::read_text(path)?).map_err(|error| format!("{}: {error}", path.display()))
        }
        _ => Err("expected either url or urlFile".to_owned()),
    }
}

/// Returns what is wrong with the keys of an address.
pub(super) fn check(kind: &str, url: Option<&Url>, file: Option<&PathBuf>) -> Result<(), String> {
    if url.is_some() == file.is_some() { Err(format!("{kind}: expected either url or urlFile")) } else { Ok(()) }
}

/// Sends a request. A server that answers with the address must not show it to others.
pub(super) fn send(client: &Client, request: &Request<'_>) -> Result<Answer, SendError> {
    let mut answer = client.send(request)?;
    let path = request.url.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
    if path.len() > 1 {
        answer.text = answer.text.replace(&path, "***");
    }
    Ok(answer)
}
