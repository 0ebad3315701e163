//! What the fuzz targets have in common.

use std::cmp::Ordering;

use outcrop::advisory::trust::{PublicKey, Signature};
use outcrop::advisory::version::{Scheme, Version};
use outcrop_agent::catalog::{ALL, Evidence};
use outcrop_proto::{Fact, Inventory};

/// Hands `bytes` to the cataloguer called `name` as the evidence at `path`. What it says must survive its own encoding.
///
/// # Panics
/// When it does not, or there is no such cataloguer.
pub fn catalogue(name: &str, path: &[u8], bytes: &[u8]) {
    let cataloguer = ALL.iter().find(|cataloguer| cataloguer.name() == name).expect("a cataloguer of that name");
    if let Ok(mut fact) = cataloguer.read(&Evidence { path, source: &bytes, companions: &[] }) {
        fact.normalize();
        assert_eq!(Fact::decode(&fact.encode()).expect("a fact decodes"), fact);
    }
}

/// Reads an OSV record, and evaluates it.
pub fn osv(yaml: bool, bytes: &[u8]) {
    let _ = outcrop::advisory::check_record(yaml, bytes);
}

/// Compares three versions in the order that the first byte names.
///
/// # Panics
/// When the order is not total.
pub fn versions(data: &[u8]) {
    const SCHEMES: [Scheme; 6] =
        [Scheme::Dpkg, Scheme::Apk, Scheme::Rpm, Scheme::Pep440, Scheme::Semver, Scheme::Maven];
    let Some((first, rest)) = data.split_first() else { return };
    let scheme = SCHEMES[usize::from(*first) % SCHEMES.len()];
    let text = String::from_utf8_lossy(rest);
    let parsed: Vec<Version> = text.split('\n').take(3).map(|text| Version::parse(scheme, text)).collect();
    for a in &parsed {
        assert_eq!(a.cmp(a), Ordering::Equal);
        for b in &parsed {
            assert_eq!(a.cmp(b), b.cmp(a).reverse());
            for c in &parsed {
                assert!(!(a <= b && b <= c) || a <= c, "{a:?} <= {b:?} <= {c:?}");
            }
        }
    }
}

/// Decodes an inventory.
///
/// # Panics
/// When something decodes that is not canonical.
pub fn inventory(bytes: &[u8]) {
    if let Ok(inventory) = Inventory::decode(bytes) {
        assert_eq!(inventory.encode(), bytes);
    }
}

/// Reads a minisign key, and a signature that is then verified.
///
/// # Panics
/// When a signature holds that the key did not make.
pub fn minisign(bytes: &[u8]) {
    let _ = PublicKey::parse(&String::from_utf8_lossy(bytes));
    let Ok(signature) = Signature::parse(bytes) else { return };
    let key = PublicKey::parse(include_str!("../../tests/data/minisign/minisign.pub")).expect("the key of the tests");
    let mut signed: &[u8] = include_bytes!("../../tests/data/minisign/signed.txt");
    if let Ok(signed) = signature.verify(&mut signed, &[key]) {
        assert!(["made for tests, prehashed", "made for tests, legacy"].contains(&signed.comment.as_str()), "{signed:?}");
    }
}
