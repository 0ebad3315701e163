//! A strict reader of the [OpenMetrics text format](https://prometheus.io/docs/specs/om/open_metrics_spec/), with the rules of `promtool check metrics`.

use std::collections::{BTreeMap, BTreeSet};

/// A sample: its metric and its labels.
pub(super) type Series = (String, BTreeMap<String, String>);

/// A family of metrics, while its samples are read.
#[derive(Debug)]
struct Family {
    name: String,
    kind: String,
    unit: Option<String>,
    sampled: bool,
}

impl Family {
    /// Checks the name against the conventions of Prometheus.
    fn check(&self) -> Result<(), String> {
        let Self { name, kind, unit, .. } = self;
        let wrong = |why: &str| Err(format!("{name}: {why}"));
        if !is_name(name) || !name.starts_with("outcrop_") {
            return wrong("the name is invalid or lacks the prefix");
        }
        if name
            .split('_')
            .any(|part| part.contains("milli") || part.contains("micro") || part == "minutes" || part == "mib")
        {
            return wrong("not a base unit");
        }
        if ["_total", "_info", "_bucket", "_count", "_sum"].iter().any(|suffix| name.ends_with(suffix)) {
            return wrong("the suffix belongs to samples, not to the family");
        }
        for known in ["seconds", "bytes"] {
            let is_unit = unit.as_deref() == Some(known);
            if name.ends_with(&format!("_{known}")) != is_unit {
                return wrong("the name ends in the unit and the unit is declared, or neither");
            }
        }
        match kind.as_str() {
            "counter" | "gauge" | "histogram" | "info" => Ok(()),
            _ => wrong("unknown type"),
        }
    }

    /// Returns which sample of the family a line names.
    fn suffix<'a>(&self, line: &'a str) -> Option<(&'static str, &'a str)> {
        let rest = line.strip_prefix(self.name.as_str())?;
        let suffixes: &[&'static str] = match self.kind.as_str() {
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_count", "_sum"],
            "info" => &["_info"],
            _ => &[""],
        };
        suffixes.iter().find_map(|suffix| {
            let rest = rest.strip_prefix(suffix)?;
            rest.starts_with(['{', ' ']).then_some((*suffix, rest))
        })
    }
}

/// Reads all of it, or says what is wrong.
pub(super) fn parse(text: &str) -> Result<BTreeMap<Series, f64>, String> {
    let mut series = BTreeMap::new();
    let mut done = BTreeSet::new();
    let mut current: Option<Family> = None;
    let mut help: Option<String> = None;
    let Some(text) = text.strip_suffix("# EOF\n") else { return Err("the end marker is missing".to_owned()) };
    for line in text.split('\n').take(text.matches('\n').count()) {
        let wrong = |why: &str| Err(format!("{why}: {line:?}"));
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let Some((name, words)) = rest.split_once(' ') else { return wrong("no help") };
            if words.trim().is_empty() || !words.ends_with('.') || words.ends_with("..") {
                return wrong("help is a sentence");
            }
            if current.as_ref().is_some_and(|family| !family.sampled) {
                return wrong("the family before has no samples");
            }
            help = Some(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let Some((name, kind)) = rest.split_once(' ') else { return wrong("no type") };
            if help.take().as_deref() != Some(name) {
                return wrong("a type without its help");
            }
            if !done.insert(name.to_owned()) {
                return wrong("a family in two places");
            }
            current = Some(Family { name: name.to_owned(), kind: kind.to_owned(), unit: None, sampled: false });
        } else if let Some(rest) = line.strip_prefix("# UNIT ") {
            let Some(family) = current.as_mut().filter(|family| !family.sampled) else { return wrong("a lost unit") };
            match rest.split_once(' ') {
                Some((name, unit)) if name == family.name => family.unit = Some(unit.to_owned()),
                _ => return wrong("a unit of another family"),
            }
        } else {
            let Some(family) = &mut current else { return wrong("a sample before its type") };
            if !family.sampled {
                family.check()?;
                family.sampled = true;
            }
            let Some((suffix, rest)) = family.suffix(line) else { return wrong("a sample of another family") };
            let (labels, rest) = match rest.strip_prefix('{') {
                Some(rest) => labels(rest).map_err(|why| format!("{why}: {line:?}"))?,
                None => (BTreeMap::new(), rest),
            };
            let Some(Ok(value)) = rest.strip_prefix(' ').map(str::parse::<f64>) else { return wrong("no value") };
            if value.is_nan() || (family.kind != "gauge" && value < 0.0) {
                return wrong("not a value of this type");
            }
            if (suffix == "_bucket") != labels.contains_key("le") {
                return wrong("`le` belongs to buckets");
            }
            if series.insert((format!("{}{suffix}", family.name), labels), value).is_some() {
                return wrong("a series twice");
            }
        }
    }
    histograms(&series)?;
    Ok(series)
}

/// Checks that the buckets of every histogram are cumulative and end with the count.
fn histograms(series: &BTreeMap<Series, f64>) -> Result<(), String> {
    let mut buckets: BTreeMap<Series, Vec<(f64, f64)>> = BTreeMap::new();
    for ((name, labels), value) in series {
        let Some(family) = name.strip_suffix("_bucket") else { continue };
        let mut labels = labels.clone();
        let bound = labels.remove("le").unwrap_or_default();
        let bound = bound.parse::<f64>().map_err(|_| format!("{name}: not a bound: {bound:?}"))?;
        buckets.entry((family.to_owned(), labels)).or_default().push((bound, *value));
    }
    for ((family, labels), mut buckets) in buckets {
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let count = series.get(&(format!("{family}_count"), labels.clone()));
        let is_rising = buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1);
        let last = buckets.last().copied();
        if !is_rising || last.is_none_or(|(bound, value)| bound.is_finite() || Some(&value) != count) {
            return Err(format!("{family} {labels:?}: not a histogram: {buckets:?}, count {count:?}"));
        }
        if !series.contains_key(&(format!("{family}_sum"), labels.clone())) {
            return Err(format!("{family} {labels:?}: no sum"));
        }
    }
    Ok(())
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
fn the_reader_rejects_what_prometheus_does_or_promtool_warns_about() {
    let good = "# HELP outcrop_a A.\n# TYPE outcrop_a gauge\noutcrop_a{x=\"\\\"\\\\\\n\"} 1\n# EOF\n";
    assert_eq!(parse(good).unwrap().into_keys().next().unwrap().1["x"], "\"\\\n");
    let histogram = "# HELP outcrop_a_seconds A.\n# TYPE outcrop_a_seconds histogram\n# UNIT outcrop_a_seconds seconds\n\
                     outcrop_a_seconds_sum 1\noutcrop_a_seconds_count 2\noutcrop_a_seconds_bucket{le=\"1.0\"} 1\n\
                     outcrop_a_seconds_bucket{le=\"+Inf\"} 2\n# EOF\n";
    assert_eq!(parse(histogram).unwrap().len(), 4);
    for (bad, from) in
        [("outcrop_a_seconds_count 2", "outcrop_a_seconds_count 3"), ("\"+Inf\"", "\"5\""), ("_sum 1", "_sum NaN")]
    {
        assert!(parse(&histogram.replace(bad, from)).is_err(), "{from}");
    }
    for bad in [
        "outcrop_a 1\n# EOF\n",
        "# HELP outcrop_a A.\n# TYPE outcrop_a counter\noutcrop_a 1\n# EOF\n",
        "# HELP outcrop_a_total A.\n# TYPE outcrop_a_total counter\noutcrop_a_total_total 1\n# EOF\n",
        "# HELP outcrop_a_seconds A.\n# TYPE outcrop_a_seconds gauge\noutcrop_a_seconds 1\n# EOF\n",
        "# HELP outcrop_a A.\n# TYPE outcrop_a gauge\noutcrop_a 1\noutcrop_a 2\n# EOF\n",
        "# HELP outcrop_a A.\n# TYPE outcrop_a gauge\noutcrop_a{x=\"a\"b\"} 1\n# EOF\n",
        "# HELP outcrop_a A.\n# TYPE outcrop_a gauge\noutcrop_a{x=\"\\t\"} 1\n# EOF\n",
        "# HELP outcrop_a A.\n# TYPE outcrop_a gauge\noutcrop_b 1\n# EOF\n",
        "# HELP outcrop_a A.\n# TYPE outcrop_a gauge\noutcrop_a 1\n",
    ] {
        assert!(parse(bad).is_err(), "{bad}");
    }
}
