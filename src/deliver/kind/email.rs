//! E-mail by SMTP ([RFC 5321](https://www.rfc-editor.org/rfc/rfc5321)), with STARTTLS or TLS from the beginning.

use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart};
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, CertificateStore, Identity, Tls, TlsParameters};
use lettre::{Message, SmtpTransport, Transport as _};
use serde::{Deserialize, Deserializer};

use super::Notifier;
use crate::deliver::client::{Answer, Client, Files, SendError};
use crate::deliver::connection::{Authorization, Connection, Url};
use crate::deliver::notification::{Entry, Notification, Place};
use crate::deliver::{Verdict, secret};

/// Longest answer that is shown, in characters.
const ANSWER: usize = 500;

/// Maximum number of recipients.
const RECIPIENTS: usize = 100;

/// E-mail.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Email {
    /// Name of the SMTP server.
    host: String,
    /// Its port; by default that of the protection.
    #[serde(default)]
    port: Option<u16>,
    /// Protection of the connection.
    #[serde(default)]
    security: Security,
    /// The sender.
    #[serde(deserialize_with = "mailbox")]
    from: Mailbox,
    /// The recipients.
    #[serde(deserialize_with = "mailboxes")]
    to: Vec<Mailbox>,
}

/// Protection of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Security {
    /// TLS after the command STARTTLS, without which nothing is sent.
    #[default]
    Starttls,
    /// TLS from the beginning.
    Tls,
    /// None.
    None,
}

impl Email {
    fn port(&self) -> u16 {
        self.port.unwrap_or(match self.security {
            Security::Starttls => 587,
            Security::Tls => 465,
            Security::None => 25,
        })
    }

    /// Returns the message as it is sent.
    fn render(&self, key: &str, message: &Notification) -> Result<Message, String> {
        let at = u64::try_from(message.at).unwrap_or_default();
        let date = std::time::UNIX_EPOCH + std::time::Duration::from_secs(at);
        let mut builder = Message::builder()
            .from(self.from.clone())
            .subject(message.title.clone())
            .date(date)
            // A message that is sent again is recognized.
            .message_id(Some(format!("<{key}@outcrop>")));
        for to in &self.to {
            builder = builder.to(to.clone());
        }
        let body = MultiPart::alternative_plain_html(message.plain(), html(message));
        let mut built = builder.multipart(body).map_err(|error| format!("composing the e-mail: {error}"))?;
        // No program answers it (RFC 3834).
        let name = HeaderName::new_from_ascii_str("Auto-Submitted");
        built.headers_mut().insert_raw(HeaderValue::new(name, "auto-generated".to_owned()));
        Ok(built)
    }

    fn transport(&self, connection: &Connection) -> Result<SmtpTransport, String> {
        let tls = match self.security {
            Security::None => Tls::None,
            security => {
                let parameters = self.parameters(connection)?;
                if security == Security::Tls { Tls::Wrapper(parameters) } else { Tls::Required(parameters) }
            }
        };
        let mut transport =
            SmtpTransport::builder_dangerous(&self.host).port(self.port()).tls(tls).timeout(Some(connection.timeout));
        match &connection.authorization {
            None => {}
            Some(Authorization::Basic { username, password_file }) => {
                let password = secret::read_text(password_file)?;
                transport = transport.credentials(Credentials::new(username.clone(), password));
            }
            Some(_) => return Err("email: authorization has to be basic".to_owned()),
        }
        Ok(transport.build())
    }

    fn parameters(&self, connection: &Connection) -> Result<TlsParameters, String> {
        let files = Files::read(&connection.tls)?;
        let mut parameters =
            TlsParameters::builder(self.host.clone()).certificate_store(CertificateStore::None).add_root_certificate(
                Certificate::from_pem(&files.ca).map_err(|_| "tls.caFile: no certificate in PEM".to_owned())?,
            );
        if let Some((chain, key)) = &files.client {
            let identity = Identity::from_pem(chain, key).map_err(|_| "tls.certFile, tls.keyFile: not in PEM")?;
            parameters = parameters.identify_with(identity);
        }
        parameters.build().map_err(|error| format!("tls: {error}"))
    }
}

impl Notifier for Email {
    fn url(&self) -> Result<Url, String> {
        // The address is that of TCP; the scheme says whether credentials are protected.
        let scheme = if self.security == Security::None { "http" } else { "https" };
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        Url::try_from(format!("{scheme}://{host}:{}/", self.port())).map_err(|_| "email.host: no host name".to_owned())
    }

    fn check(&self) -> Result<(), String> {
        match self.to.len() {
            1..=RECIPIENTS => self.url().map(|_| ()),
            _ => Err(format!("email.to: expected 1 to {RECIPIENTS} addresses")),
        }
    }

    fn has_proxy(&self) -> bool {
        false
    }

    fn send(&self, client: &Client, key: &str, message: &Notification) -> Result<Answer, SendError> {
        let message = self.render(key, message).map_err(SendError)?;
        let transport = self.transport(client.connection()).map_err(SendError)?;
        match transport.send(&message) {
            Ok(response) => {
                let text = response.message().collect::<Vec<_>>().join(" ");
                Ok(Answer { status: u16::from(response.code()), verdict: Verdict::Accepted, retry_after: None, text })
            }
            Err(error) => answer(&error).ok_or_else(|| SendError(format!("{}:{}: {error}", self.host, self.port()))),
        }
    }
}

/// Returns the answer of a server that did not accept the message. A refusal that is about its content is for good; one that is about the sender, the
/// recipients or the server is not ([RFC 5321, section 4.2.3](https://www.rfc-editor.org/rfc/rfc5321#section-4.2.3)).
fn answer(error: &Error) -> Option<Answer> {
    let status = u16::from(error.status()?);
    let verdict = if matches!(status, 552 | 554) { Verdict::Refused } else { Verdict::Retry };
    let text = error.to_string().chars().take(ANSWER).collect();
    Some(Answer { status, verdict, retry_after: None, text })
}

fn html(message: &Notification) -> String {
    let mut html = String::from("<!doctype html><html><body style=\"font-family: sans-serif\">");
    html.push_str(&format!("<h2>{}</h2>", escape(&message.title)));
    if !message.vulnerabilities.is_empty() {
        html.push_str("<ul>");
        message.vulnerabilities.iter().for_each(|entry| html.push_str(&item(entry)));
        html.push_str("</ul>");
    }
    for problem in &message.problems {
        html.push_str(&format!("<p>{}</p>", escape(&problem.text())));
    }
    for remark in message.remarks() {
        html.push_str(&format!("<p>{}</p>", escape(&remark)));
    }
    if let Some(url) = &message.link {
        html.push_str(&format!("<p><a href=\"{}\">Outcrop</a></p>", escape(url)));
    }
    html + "</body></html>"
}

fn item(entry: &Entry) -> String {
    let name = escape(&entry.vulnerability);
    let name = match &entry.link {
        Some(url) => format!("<a href=\"{}\">{name}</a>", escape(url)),
        None => name,
    };
    let places: Vec<String> = entry.places.iter().map(Place::text).collect();
    let lines = [entry.summary.clone(), entry.packages(), places.join("; ")];
    let lines: String =
        lines.iter().filter(|line| !line.is_empty()).map(|line| format!("<br>{}", escape(line))).collect();
    format!("<li><b>{name}</b> ({}), {}{lines}</li>", escape(&entry.severity), escape(&entry.fixed()))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

fn parse(text: &str) -> Result<Mailbox, String> {
    text.parse().map_err(|_| format!("{text:?} is no address: expected NAME@HOST or Name <NAME@HOST>"))
}

fn mailbox<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Mailbox, D::Error> {
    parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

fn mailboxes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Mailbox>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| parse(text)).collect::<Result<_, _>>().map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::kind::samples;

    fn email(more: &str) -> Result<Email, String> {
        let yaml = format!("{{ host: mail.example, from: Outcrop <outcrop@a.example>, to: [sec@a.example]{more} }}");
        serde_saphyr::from_str::<Email>(&yaml).map_err(|error| error.to_string())
    }

    fn rendered(message: &Notification) -> String {
        String::from_utf8(email("").unwrap().render("k1", message).unwrap().formatted()).unwrap()
    }

    #[test]
    fn a_message_has_the_headers_of_its_configuration_and_no_others() {
        let names = |text: &str| -> Vec<String> {
            let head = text.split("\r\n\r\n").next().unwrap();
            let lines = head.split("\r\n").filter(|line| !line.starts_with([' ', '\t']));
            let mut names: Vec<String> = lines.map(|line| line.split(':').next().unwrap().to_owned()).collect();
            names.sort();
            names
        };
        let expected =
            ["Auto-Submitted", "Content-Type", "Date", "From", "MIME-Version", "Message-ID", "Subject", "To"];
        for mut message in samples::all() {
            assert_eq!(names(&rendered(&message)), expected);
            message.title = "a\r\nBcc: evil@evil.example\r\n\r\nbody".to_owned();
            let text = rendered(&message);
            assert_eq!(names(&text), expected, "{text}");
        }
        let text = rendered(&samples::usual());
        assert!(text.contains("Message-ID: <k1@outcrop>") && text.contains("text/html"), "{text}");
        assert!(text.is_ascii() && text.lines().all(|line| line.len() < 998));
    }

    #[test]
    fn no_text_from_outside_is_markup() {
        for message in samples::all() {
            let html = html(&message);
            assert!(!html.contains("<script") && !html.contains("<https"), "{html}");
            assert!(!html.contains("onmouseover=\"alert"), "{html}");
        }
    }

    #[test]
    fn the_port_is_that_of_the_protection_and_addresses_are_checked() {
        for (more, port, secure) in [
            ("", 587, true),
            (", security: tls", 465, true),
            (", security: none", 25, false),
            (", security: tls, port: 2465", 2465, true),
        ] {
            let url = email(more).unwrap().url().unwrap();
            assert_eq!((url.host(), url.port(), url.is_secure()), ("mail.example", port, secure), "{more}");
        }
        for (yaml, says) in [
            ("{ host: a, from: nobody, to: [b@c.example] }", "\"nobody\" is no address"),
            ("{ host: a, from: 'b@c.example', to: [\"d@e.example\\r\\nBcc: f@g.example\"] }", "is no address"),
            ("{ host: a, from: b@c.example, to: [b@c.example], password: x }", "unknown field"),
        ] {
            let error = serde_saphyr::from_str::<Email>(yaml).unwrap_err().to_string();
            assert!(error.contains(says), "{yaml}: {error}");
        }
        let none: Email = serde_saphyr::from_str("{ host: a, from: b@c.example, to: [] }").unwrap();
        assert!(none.check().unwrap_err().contains("email.to"));
    }
}
