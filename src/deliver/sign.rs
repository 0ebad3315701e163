//! Signatures of deliveries, as [Standard Webhooks](https://www.standardwebhooks.com) defines them: HMAC-SHA256 over key, time and body.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;

/// Prefix of a secret in base64.
const PREFIX: &str = "whsec_";

/// Returns the headers of a signed delivery: its idempotency key, the time of this attempt (seconds since 1970) and the signature of both and of the
/// body. A receiver verifies the signature, and refuses times that are minutes away from its own.
pub(super) fn headers(secret: &str, key: &str, at: i64, body: &[u8]) -> [(&'static str, String); 3] {
    let decoded = secret.strip_prefix(PREFIX).and_then(|text| STANDARD.decode(text).ok());
    let secret = hmac::Key::new(hmac::HMAC_SHA256, decoded.as_deref().unwrap_or(secret.as_bytes()));
    let signed = [format!("{key}.{at}.").as_bytes(), body].concat();
    let signature = STANDARD.encode(hmac::sign(&secret, &signed));
    [
        ("webhook-id", key.to_owned()),
        ("webhook-timestamp", at.to_string()),
        ("webhook-signature", format!("v1,{signature}")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification, and of its reference libraries.
    #[test]
    fn the_example_of_the_specification_has_its_signature() {
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let body = br#"{"test": 2432232314}"#;
        let [id, at, signature] = headers(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!((id.1.as_str(), at.1.as_str()), ("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330"));
        assert_eq!(signature.1, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_secret_that_is_no_base64_is_used_as_it_is() {
        let sign = |secret: &str| headers(secret, "k", 1, b"body")[2].1.clone();
        assert_ne!(sign("some secret"), sign("other secret"));
        assert_ne!(sign("whsec_not base64"), sign("not base64"));
    }
}
