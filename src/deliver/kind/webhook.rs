//! An HTTP endpoint with a body that the operator writes as a [template](https://docs.rs/minijinja/latest/minijinja/syntax/index.html).

use std::io::Write;
use std::path::PathBuf;

use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value, context};
use serde::Deserialize;

use super::{Notifier, hook};
use crate::deliver::client::{Answer, Client, Request, SendError};
use crate::deliver::connection::Url;
use crate::deliver::notification::Notification;

/// Steps that a template may take.
const FUEL: u64 = 200_000;

/// Largest body, bytes.
const BODY: usize = 256 << 10;

/// An HTTP endpoint with a template.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Webhook {
    /// Its address.
    #[serde(default)]
    url: Option<Url>,
    /// File with the address.
    #[serde(default)]
    url_file: Option<PathBuf>,
    /// Type of the body. It says how values are escaped: as JSON, as HTML, or not at all.
    #[serde(default = "json")]
    content_type: String,
    /// The template; without one the body is the message as JSON.
    #[serde(default)]
    template: Option<Template>,
}

/// A template that can be parsed.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
struct Template(String);

impl TryFrom<String> for Template {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let error = Environment::empty().template_from_str(&text).err();
        match error {
            None => Ok(Self(text)),
            Some(error) => Err(format!("template: {error}")),
        }
    }
}

impl Notifier for Webhook {
    fn url(&self) -> Result<Url, String> {
        hook::url(self.url.as_ref(), self.url_file.as_ref())
    }

    fn check(&self) -> Result<(), String> {
        hook::check("webhook", self.url.as_ref(), self.url_file.as_ref())?;
        let is_type = self.content_type.bytes().all(|byte| (0x20..0x7f).contains(&byte));
        if !is_type || !self.content_type.contains('/') {
            return Err(format!("webhook.contentType: {:?} is none", self.content_type));
        }
        // An error of a template that depends on no message is found at the start.
        self.render(&Notification::test("cluster", "target", 0)).map(|_| ())
    }

    fn send(&self, client: &Client, key: &str, message: &Notification) -> Result<Answer, SendError> {
        let url = self.url().map_err(SendError)?;
        let body = self.render(message).map_err(SendError)?;
        let mut request = Request::post(&url, &self.content_type, &body);
        request.headers.push(("Idempotency-Key", key.to_owned()));
        hook::send(client, &request)
    }
}

impl Webhook {
    /// Returns the body.
    fn render(&self, message: &Notification) -> Result<Vec<u8>, String> {
        let Some(Template(source)) = &self.template else {
            return serde_json::to_vec(message).map_err(|error| error.to_string());
        };
        let escape = match self.content_type.split(';').next().unwrap_or_default().trim() {
            "text/html" | "application/xml" | "text/xml" => AutoEscape::Html,
            kind if kind.ends_with("json") => AutoEscape::Json,
            _ => AutoEscape::None,
        };
        let mut environment = Environment::new();
        environment.set_auto_escape_callback(move |_| escape.clone());
        environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
        environment.set_fuel(Some(FUEL));
        let values = context! { text => message.plain(), ..Value::from(Serde(message)) };
        let mut body = Bounded(Vec::new());
        let template = environment.template_from_str(source).map_err(|error| format!("webhook.template: {error}"))?;
        template.render_captured_to(values, &mut body).map_err(|error| format!("webhook.template: {error}"))?;
        Ok(body.0)
    }
}

/// A body that does not grow without a bound.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len().saturating_add(bytes.len()) > BODY {
            return Err(std::io::Error::other(format!("the body has more than {BODY} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn json() -> String {
    "application/json".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::kind::samples;

    fn webhook(content_type: &str, template: &str) -> Result<Webhook, String> {
        let yaml = format!("url: https://hook.example/x\ncontentType: {content_type}\ntemplate: |\n  {template}\n");
        serde_saphyr::from_str::<Webhook>(&yaml).map_err(|error| error.to_string())
    }

    #[test]
    fn a_value_in_a_template_is_escaped_as_the_type_of_the_body_demands() {
        let template = "{\"text\": {{ title }}, \"ids\": [{% for of in vulnerabilities %}{{ of.vulnerability }}{% if not loop.last %},{% endif %}{% endfor %}]}";
        for message in samples::all() {
            let body = webhook("application/json", template).unwrap().render(&message).unwrap();
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(body["text"], message.title.as_str());
            assert_eq!(body["ids"].as_array().unwrap().len(), message.vulnerabilities.len());
            let html = webhook("text/html", "<p>{{ text }}</p>").unwrap().render(&message).unwrap();
            let html = String::from_utf8(html).unwrap();
            assert_eq!(html.matches('<').count(), 2, "{html}");
        }
        let plain = webhook("text/plain", "{{ title }}").unwrap().render(&samples::usual()).unwrap();
        assert_eq!(String::from_utf8(plain).unwrap().trim(), samples::usual().title);
        let without: Webhook = serde_saphyr::from_str("url: https://hook.example/x").unwrap();
        let body = without.render(&samples::usual()).unwrap();
        assert_eq!(serde_json::from_slice::<Notification>(&body).unwrap(), samples::usual());
    }

    #[test]
    fn a_template_that_is_wrong_or_does_not_end_is_refused() {
        let error = webhook("text/plain", "{% for x in %}").unwrap_err();
        assert!(error.contains("template"), "{error}");
        for (template, says) in [
            ("{{ no.such.field }}", "undefined"),
            ("{% for a in range(10000) %}{% for b in range(10000) %}{% endfor %}{% endfor %}", "fuel"),
            ("{% for a in range(9000) %}{{ text }}{{ text }}{{ text }}{% endfor %}", "webhook.template"),
            ("{% include '/etc/passwd' %}", "webhook.template"),
        ] {
            match webhook("text/plain", template) {
                Ok(webhook) => {
                    let error = webhook.check().unwrap_err();
                    assert!(error.contains(says), "{template}: {error}");
                }
                Err(error) => assert!(error.contains("include"), "{template}: {error}"),
            }
        }
    }
}
