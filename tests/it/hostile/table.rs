//! The table of hostile images: each with its expected coverage and reasons, and the packages that must still be listed.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use super::{Image, archives, databases, languages, rpm, trees};

/// Memory that the scan of an image may take above the same image without the attack, bytes.
pub(super) const MORE: u64 = 256 << 20;

/// The report about the evidence that was tampered with.
#[derive(Clone, Copy, Debug)]
pub(super) enum Said {
    /// Nothing: it is read whole, or is no evidence.
    Nothing,
    /// One of the messages about this path contains this text.
    Warning(&'static str, &'static str),
    /// The reason of the coverage contains this text.
    Reason(&'static str),
}

/// A hostile image.
pub(super) struct Row {
    pub(super) name: &'static str,
    /// The container's state.
    pub(super) state: &'static str,
    pub(super) said: Said,
    /// Packages that are listed, among others.
    pub(super) listed: &'static [&'static str],
    /// Tampers with an intact image.
    pub(super) tamper: fn(&Image),
}

pub(super) const fn row(
    name: &'static str,
    state: &'static str,
    said: Said,
    listed: &'static [&'static str],
    tamper: fn(&Image),
) -> Row {
    Row { name, state, said, listed, tamper }
}

/// Scans each image, and reports all that are not as they must be.
pub(super) fn check(rows: Vec<Row>) {
    static INTACT: OnceLock<u64> = OnceLock::new();
    let intact = *INTACT.get_or_init(|| Image::new().measure(&["--packages"]).1);
    let mut wrong = Vec::new();
    for Row { name, state, said, listed, tamper } in rows {
        let image = Image::new();
        tamper(&image);
        let (seen, peak) = image.measure(&["--packages"]);
        println!("  {name}: {} MiB, {}", peak >> 20, seen.0["coverage"]);
        let mut fail = |what: String| wrong.push(format!("{name}: {what}"));
        if peak >= intact + MORE {
            fail(format!("{} MiB, and {} MiB without the attack", peak >> 20, intact >> 20));
        }
        if seen.0["coverage"]["state"] != state {
            fail(format!("not {state}: {}", seen.0["coverage"]));
        }
        let packages = seen.packages();
        for package in listed.iter().filter(|package| packages.binary_search(&(**package).to_owned()).is_err()) {
            fail(format!("{package} is not among {} packages", packages.len()));
        }
        let reason = seen.0["coverage"]["reason"].as_str().unwrap_or_default();
        let is_said = match said {
            Said::Nothing => reason.is_empty(),
            Said::Warning(path, text) => seen.warnings(path).any(|message| message.contains(text)),
            Said::Reason(text) => reason.contains(text),
        };
        if !is_said {
            let warnings = seen.0["warnings"].as_array().unwrap();
            fail(format!("not {said:?}: {reason:?}, {:#?}", warnings.iter().take(5).collect::<Vec<_>>()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn there_are_sixty_hostile_images_of_different_names() {
    let all = [archives::rows(), databases::rows(), languages::rows(), rpm::rows(), trees::rows()];
    let names: Vec<&str> = all.iter().flatten().map(|row| row.name).collect();
    println!("  {} hostile images", names.len());
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    assert!(names.len() >= 60);
}
