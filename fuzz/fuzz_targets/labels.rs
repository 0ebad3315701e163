//! Label selectors, as callers of the API send them: any text is a selector or an error, and one that is can be asked.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(labels) = outcrop::cluster::Labels::parse(text) {
        let values = [("app", "web"), ("tier", "")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        labels.select(&values.into());
    }
});
