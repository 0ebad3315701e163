//! A strict reader of [Prometheus' exposition format 0.0.4](https://prometheus.io/docs/instrumenting/exposition_formats/), with what `promtool check
//! metrics` minds.

use std::collections::{BTreeMap, BTreeSet};

/// A sample: its metric and its labels.
pub(super) type Series = (String, BTreeMap<String, String>);

/// Reads all of it, or says what is the matter.
pub(super) fn parse(text: &str) -> Result<BTreeMap<Series, f64>, String> {
    let mut series = BTreeMap::new();
    let mut done = BTreeSet::new();
    let mut current: Option<(String, String)> = None;
    let mut help: Option<String> = None;
    if !text.ends_with('\n') {
        return Err("the last line does not end".to_owned());
    }
    for line in text.split('\n').take(text.matches('\n').count()) {
        let wrong = |why: &str| Err(format!("{why}: {line:?}"));
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let Some((name, words)) = rest.split_once(' ') else { return wrong("no help") };
            if words.trim().is_empty() || !words.ends_with('.') {
                return wrong("help is a sentence");
            }
            help = Some(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let Some((name, kind)) = rest.split_once(' ') else { return wrong("no type") };
            if help.take().as_deref() != Some(name) {
                return wrong("a type without its help");
            }
            if !done.insert(name.to_owned()) {
                return wrong("a metric in two places");
            }
            if (kind == "counter") != name.ends_with("_total") || !matches!(kind, "counter" | "gauge") {
                return wrong("counters, and they alone, end in _total");
            }
            if !is_name(name) || !name.starts_with("outcrop_") || name.contains("milli") {
                return wrong("the name is none, or in no base unit");
            }
            current = Some((name.to_owned(), kind.to_owned()));
        } else {
            let Some((name, kind)) = &current else { return wrong("a sample before its type") };
            let Some(rest) = line.strip_prefix(name.as_str()) else { return wrong("a sample of another metric") };
            let (labels, rest) = match rest.strip_prefix('{') {
                Some(rest) => labels(rest).map_err(|why| format!("{why}: {line:?}"))?,
                None => (BTreeMap::new(), rest),
            };
            let Some(Ok(value)) = rest.strip_prefix(' ').map(str::parse::<f64>) else { return wrong("no value") };
            if value.is_nan() || (kind == "counter" && value < 0.0) {
                return wrong("no value of a metric");
            }
            if series.insert((name.clone(), labels), value).is_some() {
                return wrong("a series twice");
            }
        }
    }
    Ok(series)
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Labels up to their closing brace, and what is behind it.
fn labels(mut rest: &str) -> Result<(BTreeMap<String, String>, &str), &'static str> {
    let mut labels = BTreeMap::new();
    loop {
        let (name, value) = rest.split_once("=\"").ok_or("no label")?;
        if !is_name(name) || name.starts_with("__") {
            return Err("no name of a label");
        }
        let mut text = String::new();
        let mut characters = value.char_indices();
        let end = loop {
            match characters.next().ok_or("a label without end")? {
                (at, '"') => break at,
                (_, '\\') => text.push(match characters.next() {
                    Some((_, 'n')) => '\n',
                    Some((_, same @ ('\\' | '"'))) => same,
                    _ => return Err("an escape that there is not"),
                }),
                (_, other) => text.push(other),
            }
        };
        if labels.insert(name.to_owned(), text).is_some() {
            return Err("a label twice");
        }
        rest = value.get(end + 1..).unwrap_or_default();
        match (rest.strip_prefix(','), rest.strip_prefix('}')) {
            (Some(more), _) => rest = more,
            (_, Some(end)) => return Ok((labels, end)),
            _ => return Err("no end of labels"),
        }
    }
}

#[test]
fn the_reader_minds_what_it_has_to() {
    let good = "# HELP outcrop_a A.\n# TYPE outcrop_a gauge\noutcrop_a{x=\"\\\"\\\\\\n\"} 1\n";
    assert_eq!(parse(good).unwrap().into_keys().next().unwrap().1["x"], "\"\\\n");
    for bad in [
        "outcrop_a 1\n",
        "# HELP outcrop_a A.\n# TYPE outcrop_a counter\noutcrop_a 1\n",
        "# HELP outcrop_a A.\n# TYPE outcrop_a gauge\noutcrop_a 1\noutcrop_a 2\n",
        "# HELP outcrop_a A.\n# TYPE outcrop_a gauge\noutcrop_a{x=\"a\"b\"} 1\n",
        "# HELP outcrop_a A.\n# TYPE outcrop_a gauge\noutcrop_a{x=\"\\t\"} 1\n",
        "# HELP outcrop_a A.\n# TYPE outcrop_a gauge\noutcrop_b 1\n",
        "# HELP outcrop_a A.\n# TYPE outcrop_a gauge\noutcrop_a 1",
    ] {
        assert!(parse(bad).is_err(), "{bad}");
    }
}
