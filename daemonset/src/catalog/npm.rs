//! Node.js packages: any installed
//! [`package.json`](https://docs.npmjs.com/cli/v11/configuring-npm/package-json) that has a name and a version.

use std::fmt;

use outcrop_proto::{Fact, Package, PackageType};
use serde::Deserializer as _;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::field::{MAX_FIELD, field, optional};
use super::{CatalogError, Cataloger, Evidence, Want};

/// Maximum size of a `package.json`, bytes. npm used to store the readme in it, and the longest of these have 1 MB.
const MAX_SIZE: u64 = 8 << 20;

/// Maximum number of licenses of one package.
const MAX_LICENSES: usize = 16;

/// Reads Node.js packages.
pub(super) struct Npm;

impl Cataloger for Npm {
    fn name(&self) -> &'static str {
        "npm"
    }

    fn wants(&self, path: &[u8]) -> Want {
        match path.strip_suffix(b"package.json") {
            Some([] | [.., b'/']) => Want::Yes,
            _ => Want::No,
        }
    }

    /// A manifest without a name or without a version is not an installed package (they mark module kinds, test data
    /// and workspaces) and yields an empty fact.
    fn read(&self, evidence: &Evidence<'_>) -> Result<Fact, CatalogError> {
        let bytes = evidence.source.bytes(MAX_SIZE)?;
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
        let text = String::from_utf8_lossy(bytes);

        let mut fact = Fact::default();
        let (manifest, warning) = match Manifest::parse(&text, true) {
            Ok(manifest) => (manifest, None),
            // A license that cannot be read costs the license only.
            Err(error) => {
                let without = Manifest::parse(&text, false);
                let manifest = without.map_err(|error| CatalogError::malformed("package.json", error.to_string()))?;
                (manifest, Some(format!("the license could not be read: {error}")))
            }
        };

        let identity = |text: Option<String>| text.map_or(Ok(None), |text| field(text.as_bytes()));
        if let (Some(name), Some(version)) = (identity(manifest.name)?, identity(manifest.version)?) {
            let mut package = Package::new(PackageType::Npm, name, version);
            package.licenses = if manifest.license.is_empty() { manifest.licenses } else { manifest.license };
            fact.packages.push(package);
            fact.warnings.extend(warning);
        }
        Ok(fact)
    }
}

/// The used fields of a manifest. All other fields are skipped at any depth of nesting.
#[derive(Default)]
struct Manifest {
    name: Option<String>,
    version: Option<String>,
    license: Vec<String>,
    /// The older name of the field, used if `license` is missing.
    licenses: Vec<String>,
    /// If set, licenses are read; otherwise they are skipped like other fields.
    reads_licenses: bool,
}

impl Manifest {
    fn parse(text: &str, reads_licenses: bool) -> serde_json::Result<Self> {
        let mut manifest = Self { reads_licenses, ..Self::default() };
        let mut json = serde_json::Deserializer::from_str(text);
        json.deserialize_any(&mut manifest)?;
        json.end()?;
        Ok(manifest)
    }
}

impl<'de> Visitor<'de> for &mut Manifest {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key_seed(Key)? {
            // The last value of a repeated key counts, as in JavaScript.
            match key {
                Field::Name => self.name = map.next_value_seed(Text)?,
                Field::Version => self.version = map.next_value_seed(Text)?,
                Field::License if self.reads_licenses => self.license = map.next_value_seed(Licenses)?,
                Field::Licenses if self.reads_licenses => self.licenses = map.next_value_seed(Licenses)?,
                Field::License | Field::Licenses | Field::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

enum Field {
    Name,
    Version,
    License,
    Licenses,
    Other,
}

/// Reads a key without storing it.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Field;

    fn deserialize<D: serde::Deserializer<'de>>(self, json: D) -> Result<Field, D::Error> {
        json.deserialize_identifier(self)
    }
}

impl Visitor<'_> for Key {
    type Value = Field;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Field, E> {
        Ok(match key {
            "name" => Field::Name,
            "version" => Field::Version,
            "license" => Field::License,
            "licenses" => Field::Licenses,
            _ => Field::Other,
        })
    }
}

/// A string of any length that the manifest has; a value of any other kind counts as missing.
struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = Option<String>;

    fn deserialize<D: serde::Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Text {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(text.to_owned()))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

/// Licenses in any form that manifests have used: an SPDX expression, `{"type": …, "url": …}`, or a list of these.
struct Licenses;

impl<'de> DeserializeSeed<'de> for Licenses {
    type Value = Vec<String>;

    fn deserialize<D: serde::Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Licenses {
    type Value = Vec<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a license")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(optional(text.as_bytes()).into_iter().collect())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Vec::new())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Vec::new())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Vec::new())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Vec::new())
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Vec::new())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut licenses = Vec::new();
        // A list in a list nests no deeper than the JSON reader allows.
        while let Some(more) = list.next_element_seed(Self)? {
            licenses.extend(more);
            licenses.truncate(MAX_LICENSES);
        }
        Ok(licenses)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut kind = None;
        while let Some(is_kind) = map.next_key_seed(LicenseKey)? {
            if is_kind {
                kind = map.next_value_seed(Text)?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(kind.and_then(|kind| optional(kind.as_bytes())).into_iter().collect())
    }
}

/// Returns whether a key of a license object names the license.
struct LicenseKey;

impl<'de> DeserializeSeed<'de> for LicenseKey {
    type Value = bool;

    fn deserialize<D: serde::Deserializer<'de>>(self, json: D) -> Result<bool, D::Error> {
        json.deserialize_identifier(self)
    }
}

impl Visitor<'_> for LicenseKey {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<bool, E> {
        Ok(matches!(key, "type" | "name"))
    }
}

const _: () = assert!(MAX_FIELD >= 214, "npm allows names of 214 bytes");

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &[u8]) -> Result<Fact, CatalogError> {
        Npm.read(&Evidence { path: b"package.json", source: &json, companions: &[] })
    }

    fn one(json: &str) -> (String, String, Vec<String>) {
        let package = read(json.as_bytes()).unwrap().packages.pop().expect("a package");
        (package.name, package.version, package.licenses)
    }

    #[test]
    fn manifests_are_wanted_in_any_directory() {
        for path in ["package.json", "app/package.json", "usr/share/nodejs/a/package.json"] {
            assert_eq!(Npm.wants(path.as_bytes()), Want::Yes, "{path}");
        }
        for path in ["app/my-package.json", "app/package.json5", "app/package-lock.json", ""] {
            assert_eq!(Npm.wants(path.as_bytes()), Want::No, "{path}");
        }
    }

    #[test]
    fn licenses_of_every_form_are_read() {
        for (json, expected) in [
            (r#""license": "MIT""#, vec!["MIT"]),
            (r#""license": {"type": "ISC", "url": "https://x"}"#, vec!["ISC"]),
            (r#""license": ["MIT", {"type": "ISC"}]"#, vec!["MIT", "ISC"]),
            (r#""licenses": [{"type": "MIT"}, {"name": "ISC"}]"#, vec!["MIT", "ISC"]),
            (r#""licenses": "MIT", "license": "ISC""#, vec!["ISC"]),
            (r#""license": 3"#, vec![]),
            (r#""license": null"#, vec![]),
            (r#""license": {"url": [[{}]]}"#, vec![]),
        ] {
            let (.., licenses) = one(&format!(r#"{{"name": "a", "version": "1", {json}}}"#));
            assert_eq!(licenses, expected, "{json}");
        }
    }

    #[test]
    fn a_license_that_cannot_be_read_costs_the_license_only() {
        let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
        for license in [r#""\ud800""#, "1e999", deep.as_str(), r#"{"type": "MIT", "\udfff": 1}"#] {
            let fact = read(format!(r#"{{"license": {license}, "name": "a", "version": "1"}}"#).as_bytes()).unwrap();
            assert_eq!((fact.packages[0].name.as_str(), fact.packages[0].licenses.len()), ("a", 0), "{license}");
            assert!(fact.warnings[0].starts_with("the license could not be read"), "{:?}", fact.warnings);
            assert!(read(format!(r#"{{"license": {license}"#).as_bytes()).is_err(), "{license}");
        }
    }

    #[test]
    fn names_and_versions_must_be_nonempty_strings() {
        for json in [
            r#"{"name": "a"}"#,
            r#"{"version": "1"}"#,
            r#"{"name": "", "version": "1"}"#,
            r#"{"name": "a", "version": 1}"#,
            r#"{"name": ["a"], "version": "1"}"#,
            r#"{"name": {"a": 1}, "version": true}"#,
            "{}",
        ] {
            assert_eq!(read(json.as_bytes()).unwrap(), Fact::default(), "{json}");
        }
    }

    #[test]
    fn a_name_or_version_that_is_too_long_is_reported() {
        let long = "x".repeat(MAX_FIELD + 1);
        for (name, version, license) in [(long.as_str(), "1", "MIT"), ("a", &long, "MIT")] {
            let json = format!(r#"{{"name": "{name}", "version": "{version}", "license": "{license}"}}"#);
            assert!(matches!(read(json.as_bytes()), Err(CatalogError::Limit { .. })));
        }
        for license in [format!(r#""{long}""#), format!(r#"{{"type": "{long}"}}"#)] {
            let (name, _, licenses) = one(&format!(r#"{{"name": "a", "version": "1", "license": {license}}}"#));
            assert_eq!((name.as_str(), licenses), ("a", Vec::new()), "the package is identified without its license");
        }
    }

    #[test]
    fn deviations_that_node_accepts_are_accepted() {
        assert_eq!(one("\u{feff}{\"version\":\"1\",\"name\":\"@a/b\"}").0, "@a/b");
        assert_eq!(one(r#"{"name":"a","name":"b","version":"1","na\u006de":"c"}"#).0, "c");
        let invalid = b"{\"name\":\"a\",\"version\":\"1\",\"description\":\"\xff\"}";
        assert_eq!(read(invalid).unwrap().packages.len(), 1);
    }

    #[test]
    fn anything_else_is_malformed() {
        for json in ["", "[]", "3", "nul", r#"{"name" "a"}"#, r#"{"name":"a","version":"1"} x"#] {
            assert!(matches!(read(json.as_bytes()), Err(CatalogError::Malformed { .. })), "{json}");
        }
    }

    #[test]
    fn truncation_anywhere_is_an_error_and_never_a_package() {
        let json =
            br#"{"name": "a", "version": "1.0", "license": ["MIT", {"type": "ISC"}], "x": {"y": [1, 2.5e3, null]}}"#;
        for length in 0..json.len() {
            assert!(read(&json[..length]).is_err(), "{length}");
        }
        assert_eq!(read(json).unwrap().packages.len(), 1);
    }

    #[test]
    fn deep_nesting_is_read_or_refused() {
        for key in ["x", "name", "license"] {
            let deep = format!(r#"{{"{key}": {}{}, "n": 1}}"#, "[".repeat(100_000), "]".repeat(100_000));
            let _ = read(deep.as_bytes());
            let open = format!(r#"{{"{key}": {}"#, r#"{"a":"#.repeat(100_000));
            assert!(read(open.as_bytes()).is_err());
        }
    }
}
