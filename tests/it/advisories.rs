//! The advisory database in use: accepted and refused files, the stored copy, and signatures.

use std::fs;
use std::io::{Cursor, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use minisign::KeyPair;
use outcrop::advisory::trust::{PublicKey, Signature, TrustError};
use outcrop::advisory::{Database, build};
use outcrop::aggregator::advisories::{Advisories, AdvisoriesError, Current, Offer, Policy, Refusal};
use rusqlite::Connection;
use serde_json::json;

use crate::skip::skip;
use crate::volumes::{FileSystem, Volume};

const OUTCROP: &str = env!("CARGO_BIN_EXE_outcrop");

/// A place for feeds, databases, and what the aggregator keeps.
struct Shop(tempfile::TempDir);

impl Shop {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A database with so many records of npm, the newest changed on that day of November.
    fn database(&self, name: &str, records: usize, day: u8) -> PathBuf {
        let feed = self.at(&format!("{name}.feed"));
        fs::create_dir_all(&feed).unwrap();
        for number in 0..records {
            let record = json!({ "id": format!("X-{number}"), "modified": format!("2026-11-{day:02}T00:00:00Z"),
                "affected": [{ "package": { "ecosystem": "npm", "name": "shop" },
                    "ranges": [{ "type": "SEMVER", "events": [{ "introduced": "0" }] }] }] });
            fs::write(feed.join(format!("{number}.json")), record.to_string()).unwrap();
        }
        build(&[feed], &self.at(name)).unwrap();
        self.at(name)
    }

    fn open(&self) -> Advisories {
        self.open_with(Policy::default())
    }

    fn open_with(&self, policy: Policy) -> Advisories {
        Advisories::open(&self.at("kept"), policy).unwrap()
    }

    /// The names of the files that are kept.
    fn kept(&self) -> Vec<String> {
        let entries = fs::read_dir(self.at("kept")).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn new(offer: Result<Offer, Refusal>) -> Arc<Current> {
    match offer {
        Ok(Offer::New(current)) => current,
        other => panic!("not taken: {other:?}"),
    }
}

fn refusal(offer: Result<Offer, Refusal>) -> String {
    offer.map(|offer| panic!("taken: {offer:?}")).unwrap_err().to_string()
}

fn push(advisories: &Advisories, file: &Path) -> Result<Offer, Refusal> {
    advisories.offer(file, None, "somebody", false)
}

/// The signature of a file, as minisign makes it.
fn sign(pair: &KeyPair, file: &Path, comment: &str) -> Vec<u8> {
    let bytes = Cursor::new(fs::read(file).unwrap());
    minisign::sign(Some(&pair.pk), &pair.sk, bytes, Some(comment), None).unwrap().to_string().into_bytes()
}

fn key(pair: &KeyPair) -> PublicKey {
    PublicKey::parse(&pair.pk.to_base64()).unwrap()
}

#[test]
fn the_good_database_outlives_a_bad_file_in_its_place_and_a_restart() {
    let shop = Shop::new();
    let watched = shop.database("watched", 10, 1);
    let advisories = shop.open();
    assert!(advisories.current().is_none() && advisories.refused().is_none());
    let first = new(advisories.watch(&watched).unwrap());
    assert_eq!(first.brought_by, format!("watched file {}", watched.display()));
    assert_eq!(first.sources[0].records, 10);
    assert!(advisories.watch(&watched).is_none(), "it has not changed");

    fs::write(&watched, "half a fi").unwrap();
    let reason = refusal(advisories.watch(&watched).unwrap());
    assert!(reason.contains("watched\": not an advisory database"), "{reason}");
    assert_eq!(advisories.refused(), Some(reason));
    assert!(advisories.watch(&watched).is_none(), "a refused file is not looked into again");
    assert_eq!(advisories.current(), Some(Arc::clone(&first)));

    fs::remove_file(&watched).unwrap();
    assert!(advisories.watch(&watched).unwrap().is_err() && advisories.watch(&watched).is_none());

    drop(advisories);
    fs::write(shop.at("kept/.incoming-rest"), "of a crash").unwrap();
    let advisories = shop.open();
    assert_eq!(advisories.current().as_deref(), Some(&*first));
    assert!(Database::open(&first.path).is_ok());
    assert_eq!(shop.kept().len(), 2, "the copy and the record: {:?}", shop.kept());

    shop.database("watched", 11, 2);
    let second = new(advisories.watch(&watched).unwrap());
    assert_ne!(second.digest, first.digest);
    assert_eq!(advisories.refused(), None);
}

#[test]
fn a_file_that_is_no_sound_database_is_refused_with_the_reason() {
    let shop = Shop::new();
    let advisories = Advisories::open(&shop.at("kept"), Policy { max_size: 1 << 20, ..Policy::default() }).unwrap();
    let good = new(push(&advisories, &shop.database("good", 3, 1)));
    let altered = |name: &str, sql: &str| {
        let path = shop.database(name, 300, 2);
        Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        path
    };
    let cut = shop.database("cut", 300, 2);
    let length = fs::metadata(&cut).unwrap().len();
    fs::File::options().write(true).open(&cut).unwrap().set_len(length - 4096).unwrap();
    let torn = shop.database("torn", 300, 2);
    let mut bytes = fs::read(&torn).unwrap();
    let middle = bytes.len() / 4096 / 2 * 4096;
    bytes[middle..middle + 4096].fill(0xff);
    fs::write(&torn, bytes).unwrap();
    fs::write(shop.at("large"), vec![0; (1 << 20) + 1]).unwrap();
    fs::create_dir(shop.at("folder")).unwrap();
    Command::new("mkfifo").arg(shop.at("pipe")).status().unwrap();
    let cases = [
        (shop.at("missing"), "No such file"),
        (shop.at("folder"), "not a regular file"),
        (shop.at("pipe"), "not a regular file"),
        (shop.at("large"), "limit of 1048576 bytes"),
        (cut, "malformed"),
        (torn, "damaged"),
        (altered("lists", "UPDATE affected SET ranges = '[1]' WHERE part = 0"), "invalid list"),
        (altered("blob", "UPDATE advisory SET summary = x'ff'"), "damaged"),
        (altered("lies", "UPDATE source SET records = 1000"), "does not match the records"),
        (altered("hides", "DELETE FROM source"), "does not match the records"),
        (
            altered(
                "endless",
                "ALTER TABLE source RENAME TO other; CREATE VIEW source AS WITH RECURSIVE n(x) AS
                 (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x AS ecosystem, x AS records, x AS newest, x AS origins FROM n",
            ),
            "only tables are allowed",
        ),
        (altered("newer", "PRAGMA user_version = 99"), "unsupported format 99"),
    ];
    for (file, reason) in cases {
        let told = refusal(push(&advisories, &file));
        // The first four are refused before they are copied; the path of a copy is one that nobody knows.
        let is_copied = !["missing", "folder", "pipe", "large"].iter().any(|name| file.ends_with(name));
        let named = if is_copied { "the pushed file" } else { file.to_str().unwrap() };
        assert!(told.contains(reason) && told.contains(named), "{}: {told}", file.display());
        assert_eq!(advisories.current().as_deref(), Some(&*good));
        assert_eq!(shop.kept().len(), 2, "nothing is left of it");
    }
}

#[test]
fn a_file_that_changes_while_it_is_copied_is_not_taken() {
    let shop = Shop::new();
    let advisories = shop.open();
    let path = shop.database("db", 3, 1);
    // Large enough that somebody else gets to write in the meantime.
    fs::File::options().write(true).open(&path).unwrap().set_len(64 << 20).unwrap();
    let stop = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = fs::File::options().append(true).open(&path).unwrap();
            while !stop.load(Ordering::Relaxed) {
                file.write_all(b"x").unwrap();
                std::thread::yield_now();
            }
        });
        let seen = (0..20).find_map(|_| match push(&advisories, &path) {
            Err(Refusal::Changing(_)) => Some(advisories.refused().unwrap()),
            _ => None,
        });
        stop.store(true, Ordering::Relaxed);
        seen
    });
    assert!(seen.unwrap().contains("changed while it was copied; write it under another name"));
    assert!(advisories.current().is_none());
}

#[test]
fn a_database_that_says_less_waits_for_the_word() {
    let shop = Shop::new();
    let advisories = shop.open();
    let many = shop.database("many", 100, 5);
    new(push(&advisories, &many));
    let few = shop.database("few", 89, 5);
    let told = refusal(push(&advisories, &few));
    assert!(told.contains("only 89 records of npm, currently 100; if this is intended,"), "{told}");
    assert!(told.contains("--allow-shrink"), "{told}");
    let older = shop.database("older", 100, 4);
    let told = refusal(push(&advisories, &older));
    assert!(told.contains("2026-11-04T00:00:00Z") && told.contains("2026-11-05T00:00:00Z"), "{told}");
    assert_eq!(new(advisories.offer(&few, None, "somebody", true)).brought_by, "somebody");
    assert_eq!(advisories.refused(), None);
}

#[test]
fn a_restart_does_not_bring_the_watched_file_back_over_what_was_pushed_since() {
    let shop = Shop::new();
    let watched = shop.database("watched", 10, 1);
    let advisories = shop.open();
    new(advisories.watch(&watched).unwrap());
    let pushed = new(push(&advisories, &shop.database("pushed", 9, 1)));
    drop(advisories);
    let advisories = shop.open();
    assert!(matches!(advisories.watch(&watched), Some(Ok(Offer::Same))));
    assert_eq!(advisories.current().as_deref(), Some(&*pushed));
    // But a new one in its place is taken.
    shop.database("watched", 12, 1);
    new(advisories.watch(&watched).unwrap());
}

#[test]
fn a_copy_stays_as_long_as_somebody_reads_it_and_then_goes() {
    let shop = Shop::new();
    let advisories = shop.open();
    let (one, two) = (shop.database("one", 10, 1), shop.database("two", 11, 2));
    let first = new(push(&advisories, &one));
    let second = new(advisories.watch(&two).unwrap());
    assert!(first.path.exists() && second.path.exists());
    // Back again while the first is still held, and forth: no copy in use is removed.
    let again = new(advisories.offer(&one, None, "somebody", true));
    assert_eq!(again.path, first.path);
    drop((first, second));
    assert!(advisories.watch(&two).is_none());
    assert!(again.path.exists());
    assert_eq!(shop.kept().len(), 2, "the current copy and the record: {:?}", shop.kept());
}

#[test]
fn a_copy_that_the_disk_changed_is_not_used_and_the_next_good_file_is() {
    let shop = Shop::new();
    let file = shop.database("db", 10, 1);
    let current = new(push(&shop.open(), &file));
    let mut bytes = fs::read(&current.path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&current.path, bytes).unwrap();
    let advisories = shop.open();
    assert!(advisories.current().is_none());
    let told = advisories.refused().unwrap();
    assert!(told.contains("does not match the digest"), "{told}");
    assert_eq!(new(push(&advisories, &file)).digest, current.digest);
    for (record, reason) in [
        ("{", "EOF"),
        (
            r#"{"digest":"x","file":"../x","brought_by":"","brought_at":"2026-01-01T00:00:00Z","signed_by":null}"#,
            "no digest",
        ),
    ] {
        fs::write(shop.at("kept/current.json"), record).unwrap();
        assert!(shop.open().refused().unwrap().contains(reason));
    }
}

#[test]
fn only_a_database_that_a_trusted_key_signed_is_taken_where_that_is_demanded() {
    let shop = Shop::new();
    let (ours, other) =
        (KeyPair::generate_unencrypted_keypair().unwrap(), KeyPair::generate_unencrypted_keypair().unwrap());
    assert!(matches!(
        Advisories::open(&shop.at("kept"), Policy { require_signature: true, ..Policy::default() }),
        Err(AdvisoriesError::NoKey)
    ));
    let policy = Policy { keys: vec![key(&ours)], require_signature: true, ..Policy::default() };
    let advisories = shop.open_with(policy.clone());
    let file = shop.database("db", 10, 1);
    let changed = shop.database("changed", 11, 1);
    let good = sign(&ours, &file, "of today");
    let cases: [(&Path, Option<Vec<u8>>, &str); 5] = [
        (&file, None, "is not signed"),
        (&file, Some(sign(&other, &file, "of today")), "signed with key"),
        (&changed, Some(good.clone()), "does not match the file"),
        (&file, Some(b"trust me".to_vec()), "not a minisign signature"),
        (
            &file,
            Some(String::from_utf8(good.clone()).unwrap().replace("of today", "of 2031").into()),
            "does not match the file",
        ),
    ];
    for (file, signature, reason) in cases {
        let told = refusal(advisories.offer(file, signature.as_deref(), "somebody", true));
        assert!(told.contains(reason), "{told}");
    }
    // Watched: the signature may come later than the file.
    assert!(advisories.watch(&file).unwrap().is_err() && advisories.watch(&file).is_none());
    fs::write(shop.at("db.minisig"), &good).unwrap();
    let current = new(advisories.watch(&file).unwrap());
    let signed = current.signed_by.as_ref().unwrap();
    assert_eq!((signed.key.as_str(), signed.comment.as_str()), (key(&ours).id(), "of today"));

    drop(advisories);
    assert_eq!(shop.open_with(policy).current(), Some(current), "its signature is kept with it");
    let distrusting = shop.open_with(Policy { keys: vec![key(&other)], require_signature: true, ..Policy::default() });
    assert!(distrusting.current().is_none(), "a key that is trusted no more takes its database with it");
}

#[test]
fn a_wrong_signature_is_refused_also_where_none_is_demanded_and_a_late_one_is_noted() {
    let shop = Shop::new();
    let (ours, other) =
        (KeyPair::generate_unencrypted_keypair().unwrap(), KeyPair::generate_unencrypted_keypair().unwrap());
    let advisories = shop.open_with(Policy { keys: vec![key(&ours)], ..Policy::default() });
    let file = shop.database("db", 10, 1);
    assert!(advisories.offer(&file, Some(&sign(&other, &file, "")), "somebody", false).is_err());
    assert_eq!(new(push(&advisories, &file)).signed_by, None);
    assert!(matches!(advisories.offer(&file, Some(&sign(&ours, &file, "")), "other", false), Ok(Offer::Same)));
    let current = advisories.current().unwrap();
    assert_eq!(current.signed_by.as_ref().unwrap().key, key(&ours).id());
    assert_eq!(current.brought_by, "somebody");
    assert!(matches!(push(&advisories, &file), Ok(Offer::Same)));
    assert!(advisories.current().unwrap().signed_by.is_some(), "a signature that was verified is not forgotten");
}

#[test]
fn signatures_of_the_minisign_tool_hold_in_both_its_forms_and_for_the_bytes_alone() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/minisign");
    let read = |name: &str| fs::read(data.join(name)).unwrap();
    let key = PublicKey::from_argument(data.join("minisign.pub").to_str().unwrap()).unwrap();
    assert_eq!(key.id(), "FE9C9ED4D55E4E8B");
    for form in ["prehashed", "legacy"] {
        let signature = Signature::parse(&read(&format!("{form}.minisig"))).unwrap();
        assert_eq!(signature.key(), key.id());
        let keys = std::slice::from_ref(&key);
        let signed = signature.verify(&mut read("signed.txt").as_slice(), keys).unwrap();
        assert_eq!(signed.comment, format!("made for tests, {form}"));
        let wrong = [b"".to_vec(), [read("signed.txt"), b"\n".to_vec()].concat(), read("signed.txt")[1..].to_vec()];
        for bytes in wrong {
            let refused = signature.verify(&mut bytes.as_slice(), keys);
            assert!(matches!(refused, Err(TrustError::Wrong(_))), "{form}: {refused:?}");
        }
        let nobody = signature.verify(&mut read("signed.txt").as_slice(), &[]);
        assert!(nobody.unwrap_err().to_string().contains("the trusted keys are none"));
    }
    for text in
        ["", "RW", "minisign.pub", "untrusted comment: only", "RWSLTl7V1J6c/rhdh5jf60fbG2+F0efMG8ecMRaESp5YcdeZRiJnN+x"]
    {
        assert!(PublicKey::parse(text).is_err(), "{text}");
    }
}

#[test]
fn a_large_file_with_a_signature_of_the_old_form_is_refused_without_taking_it_into_memory() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/minisign");
    let signature = Signature::parse(&fs::read(data.join("legacy.minisig")).unwrap()).unwrap();
    let key = PublicKey::from_argument(data.join("minisign.pub").to_str().unwrap()).unwrap();
    let refused = signature.verify(&mut std::io::repeat(b'x'), &[key]);
    assert!(matches!(refused, Err(TrustError::Legacy)), "{refused:?}");
}

#[test]
fn a_full_volume_keeps_the_good_database_and_takes_the_new_one_when_there_is_room() {
    let shop = Shop::new();
    fs::create_dir(shop.at("kept")).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "none"]).arg(shop.at("kept")).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        skip("root", "a small volume cannot be mounted here");
        return;
    }
    let outcome = std::panic::catch_unwind(|| {
        let watched = shop.database("watched", 10, 1);
        let advisories = shop.open();
        let first = new(advisories.watch(&watched).unwrap());
        let filler = shop.at("kept/filler");
        assert!(fs::write(&filler, vec![1; 1 << 20]).is_err(), "it is full");
        shop.database("watched", 11, 2);
        for _ in 0..3 {
            let told = refusal(advisories.watch(&watched).unwrap());
            assert!(told.contains("storing a copy in"), "{told}");
            assert_eq!(advisories.current().as_deref(), Some(&*first));
        }
        fs::remove_file(&filler).unwrap();
        let second = new(advisories.watch(&watched).unwrap());
        assert_eq!(second.sources[0].records, 11);
    });
    let unmounted = Command::new("umount").arg("-l").arg(shop.at("kept")).status();
    assert!(unmounted.is_ok_and(|status| status.success()));
    outcome.unwrap();
}

#[test]
fn a_copy_leaves_the_room_of_the_store() {
    let shop = Shop::new();
    let Some(volume) = Volume::mount(&shop.at("kept"), FileSystem::Tmpfs, 32) else {
        skip("root", "mounting a small volume");
        return;
    };
    let advisories = shop.open();
    for (size, says) in [(30 << 20, "reserved for the store"), (20 << 20, "not an advisory database")] {
        let file = shop.at("large");
        fs::File::create(&file).unwrap().set_len(size).unwrap();
        let told = refusal(push(&advisories, &file));
        assert!(told.contains(says), "{told}");
        assert!(shop.kept().is_empty() && volume.free() > 31 << 20, "{:?}", shop.kept());
    }
}

#[test]
fn an_incomplete_copy_is_removed_at_the_next_start_also_without_a_database() {
    let shop = Shop::new();
    fs::create_dir(shop.at("kept")).unwrap();
    fs::write(shop.at("kept/.incoming-x"), "of a process that was killed").unwrap();
    let refused_before = format!("{}.db", "0".repeat(64));
    fs::write(shop.at("kept").join(&refused_before), "to be examined").unwrap();
    shop.open();
    assert_eq!(shop.kept(), [refused_before]);
}

#[test]
fn a_refused_offer_does_not_cost_a_kept_database_that_is_only_not_trusted_now() {
    let shop = Shop::new();
    let (ours, other) =
        (KeyPair::generate_unencrypted_keypair().unwrap(), KeyPair::generate_unencrypted_keypair().unwrap());
    let policy = |pair| Policy { keys: vec![key(pair)], require_signature: true, ..Policy::default() };
    let file = shop.database("db", 10, 1);
    let current = new(shop.open_with(policy(&ours)).offer(&file, Some(&sign(&ours, &file, "")), "somebody", false));
    let mistaken = shop.open_with(policy(&other));
    assert!(mistaken.current().is_none() && push(&mistaken, &file).is_err());
    assert_eq!(shop.open_with(policy(&ours)).current(), Some(current), "the right key is back");
}

fn outcrop(arguments: &[&str], file: &Path, more: &[&str]) -> Output {
    Command::new(OUTCROP).args(arguments).arg(file).args(more).output().unwrap()
}

#[test]
fn the_command_line_shows_a_databases_digest_and_checks_its_signature() {
    let shop = Shop::new();
    let pair = KeyPair::generate_unencrypted_keypair().unwrap();
    let file = shop.database("db", 10, 1);
    let text = |output: &[u8]| String::from_utf8(output.to_vec()).unwrap();

    let info = outcrop(&["db", "info"], &file, &[]);
    let digest = outcrop_proto::Digest::of(&fs::read(&file).unwrap()).to_string();
    assert!(text(&info.stdout).contains(&digest), "{}", text(&info.stdout));

    let key_line = pair.pk.to_base64();
    let unsigned = outcrop(&["db", "verify"], &file, &["--key", &key_line]);
    assert_eq!(unsigned.status.code(), Some(1));
    assert!(text(&unsigned.stderr).contains("is not signed"), "{}", text(&unsigned.stderr));

    fs::write(shop.at("db.minisig"), sign(&pair, &file, "today\u{1b}[2J")).unwrap();
    fs::write(shop.at("key.pub"), pair.pk.to_box().unwrap().into_string()).unwrap();
    for key in [key_line.as_str(), shop.at("key.pub").to_str().unwrap()] {
        let verified = outcrop(&["db", "verify"], &file, &["--key", key]);
        assert_eq!(verified.status.code(), Some(0), "{}", text(&verified.stderr));
        let told = text(&verified.stdout);
        assert!(told.contains(&self::key(&pair).id().to_owned()) && told.contains("today\\u{1b}[2J"), "{told}");
    }
    fs::File::options().append(true).open(&file).unwrap().write_all(b"x").unwrap();
    let wrong = outcrop(&["db", "verify"], &file, &["--key", &key_line]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(text(&wrong.stderr).contains("does not match the file"), "{}", text(&wrong.stderr));
    assert_eq!(outcrop(&["db", "verify"], &file, &["--key", "nothing"]).status.code(), Some(64));
    assert_eq!(outcrop(&["db", "verify"], &file, &[]).status.code(), Some(64));
}
