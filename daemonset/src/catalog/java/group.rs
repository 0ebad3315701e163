//! The Maven group of an archive without coordinates.
//!
//! Advisories contain `group:artifact`, so a wrong group hides a finding. The group comes from the first of these that applies: a table of
//! well-known artifacts whose builds write no `pom.properties` (Gradle, Ant: Spring, Kafka, Tomcat, Bouncy Castle); a symbolic name that ends
//! with the artifact; a field of the manifest that looks like a domain; the name of the artifact, as for `commons-io:commons-io`.

use std::collections::HashMap;
use std::sync::OnceLock;

use super::manifest::Manifest;

/// One group per line: `group artifact artifact …`.
const KNOWN: &str = include_str!("groups.txt");

/// Returns the group of `artifact` at `version` from the best available source.
pub(super) fn guess(artifact: &str, version: &str, manifest: Option<&Manifest>) -> String {
    if let Some(group) = known(artifact, version) {
        return group.to_owned();
    }
    let declared = manifest.and_then(|manifest| bundle(artifact, manifest).or_else(|| declared(manifest)));
    declared.map_or_else(|| artifact.to_owned(), clean)
}

/// Returns a group from metadata without the suffixes of OSGi and Ivy.
pub(super) fn clean(group: &str) -> String {
    let group = group.split([';', '#']).next().unwrap_or_default().trim();
    // The module name of LZ4 differs from its group.
    if group == "org.lz4.java" { "org.lz4" } else { group }.to_owned()
}

fn known(artifact: &str, version: &str) -> Option<&'static str> {
    /// Artifact → group, and the group since a major version.
    type Table = HashMap<&'static str, (Option<&'static str>, Option<(u32, &'static str)>)>;
    static TABLE: OnceLock<Table> = OnceLock::new();

    let table = TABLE.get_or_init(|| {
        let mut table = Table::new();
        for line in KNOWN.lines().filter(|line| !line.starts_with('#')) {
            let mut words = line.split(' ');
            let group = words.next().unwrap_or_default();
            let since = group.split_once('@').and_then(|(group, major)| Some((major.parse().ok()?, group)));
            for artifact in words {
                let entry = table.entry(artifact).or_default();
                match since {
                    Some(since) => entry.1 = Some(since),
                    None => entry.0 = Some(group),
                }
            }
        }
        table
    });
    let (group, since) = table.get(artifact)?;
    let major = version.split(['.', '-']).next().and_then(|major| major.parse::<u32>().ok()).unwrap_or(0);
    since.filter(|(first, _)| major >= *first).map(|(_, group)| group).or(*group)
}

/// Returns `com.google.guava` for `Bundle-SymbolicName: com.google.guava.failureaccess` and the artifact `failureaccess`: the default of the
/// bundle plugins of Maven and Gradle.
fn bundle<'m>(artifact: &str, manifest: &'m Manifest) -> Option<&'m str> {
    let symbolic = manifest.main("Bundle-SymbolicName")?.split(';').next()?.trim();
    symbolic.strip_suffix(artifact)?.strip_suffix('.').filter(|group| is_domain(group))
}

/// Returns the value of the field that most likely contains the group. The fields and their alphabetical order are those of syft, so that both
/// write the same package URL.
fn declared(manifest: &Manifest) -> Option<&str> {
    let best = |keys: &'static [&'static str]| {
        keys.iter().flat_map(|key| manifest.all(key)).map(|(_, value)| value).filter(|value| is_domain(value)).min()
    };
    best(&[
        "Group-Id",
        "Bundle-SymbolicName",
        "Extension-Name",
        "Specification-Vendor",
        "Implementation-Vendor",
        "Implementation-Vendor-Id",
        "Implementation-Title",
        "Bundle-Activator",
    ])
    .or_else(|| best(&["Automatic-Module-Name", "Main-Class", "Package"]))
}

fn is_domain(value: &str) -> bool {
    ["com", "org", "net", "io", "be"].iter().any(|top| value.starts_with(top))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_come_from_the_best_evidence() {
        let spring = "Bundle-SymbolicName: org.springframework.core";
        let guava = "Bundle-SymbolicName: com.google.guava.failureaccess;x:=y\nImplementation-Vendor-Id: com.a";
        for (artifact, version, manifest, expected) in [
            ("spring-core", "5.3", spring, "org.springframework"),
            ("other-core", "5.3", spring, "org.springframework.core"),
            ("failureaccess", "1", guava, "com.google.guava"),
            ("micrometer-core", "1", "Implementation-Title: io.micrometer#micrometer-core;1.0", "io.micrometer"),
            ("lz4-java", "1", "Automatic-Module-Name: org.lz4.java", "org.lz4"),
            ("x", "1", "Implementation-Vendor: Example Inc.\nMain-Class: org.x.Main", "org.x.Main"),
            ("commons-x", "1", "Implementation-Vendor: Example Inc.", "commons-x"),
            ("groovy-xml", "3.0.9", "", "org.codehaus.groovy"),
            ("groovy-xml", "4.0.1", "", "org.apache.groovy"),
            ("groovy-xml", "", "", "org.codehaus.groovy"),
        ] {
            let manifest = Manifest::parse(manifest.as_bytes());
            assert_eq!(guess(artifact, version, Some(&manifest)), expected, "{artifact}");
        }
        assert_eq!(guess("a", "1", None), "a");
    }
}
