//! Callers who may read some namespaces, and ask about the packages of others.

use std::process::Command;
use std::time::Duration;

use outcrop_proto::inventory::compress;
use outcrop_proto::wire::Seen;
use outcrop_proto::{Package, PackageType, Pod};

use super::super::service::{OUTCROP, encoded, until};
use super::deliveries::of_packages;
use super::{Place, containers, own_layer, pieces};

#[test]
fn an_answer_for_one_namespace_does_not_depend_on_the_packages_of_another() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = dir.path().join("api-tokens");
    let [all, shop] = [&[][..], &["--namespaces", "shop"]].map(|namespaces| {
        let name = if namespaces.is_empty() { "all" } else { "shop" };
        let mut new = Command::new(OUTCROP);
        new.args(["token", "new", "--api", name, "--tokens"]).arg(&tokens).args(namespaces);
        String::from_utf8(new.output().unwrap().stdout).unwrap().trim().to_owned()
    });
    let mut place = Place::start(&["--api-tokens", tokens.to_str().unwrap()]);
    place.service.bearer = Some(all.clone());

    // Both have a package of this name, of different types.
    let package = |kind, version: &str| vec![Package::new(kind, "acme-ledger".to_owned(), version.to_owned())];
    let inventories = [
        ("bank", of_packages("var/lib/dpkg/status", "dpkg", package(PackageType::Deb, "3.1"))),
        ("shop", of_packages("a/package.json", "node", package(PackageType::Npm, "4.0.0"))),
    ];
    let mut stream = place.attach(&place.name());
    let images: Vec<_> =
        inventories.into_iter().map(|(namespace, inventory)| (own_layer(namespace), namespace, inventory)).collect();
    let list = images.iter().map(|((_, container), namespace, _)| {
        let pod = Pod { namespace: (*namespace).to_owned(), name: "web-1".to_owned(), uid: (*namespace).to_owned() };
        (&Seen { pod: Some(pod), ..Seen::try_from(container.clone()).unwrap() }).into()
    });
    let list = list.collect();
    assert!(place.say(&stream, Duration::from_secs(20), std::iter::once(containers(1, true, list))));
    let mut delivered = 0;
    while delivered < images.len() {
        for layer in place.lease(&mut stream) {
            let (_, _, inventory) = images.iter().find(|((own, _), ..)| *own == layer).unwrap();
            let compressed = compress(&inventory.encode()).unwrap();
            place.runtime.block_on(stream.deliver(pieces(layer, std::iter::once(compressed)))).unwrap();
            delivered += 1;
        }
    }
    until("both to be scanned", Duration::from_secs(60), || {
        place.service.all("/api/v1/containers?coverage=scanned").len() == images.len()
    });

    let ask = |bearer: &str, question: &str| {
        place.service.ask_with(bearer, &format!("/api/v1/who-has?q={}", encoded(question))).unwrap()
    };
    // The range means something for npm only: whoever sees the other package has to say which is meant.
    let (status, body) = ask(&all, "acme-ledger@^4");
    assert!(status == 400 && body.contains("dpkg"), "{body}");
    let (status, body) = ask(&shop, "acme-ledger@^4");
    assert!(status == 200 && body.contains("4.0.0"), "{status} {body}");
    for question in ["acme-ledger", "acme-ledger@<5", "pkg:npm/acme-ledger@^4", "pkg:deb/debian/acme-ledger"] {
        let (status, body) = ask(&shop, question);
        assert!(status == 200 && !body.contains("3.1") && !body.contains("bank"), "{question}: {status} {body}");
    }

    // A package that only others have, or had, is as one that nobody has.
    let others = |question: &str| ask(&shop, question);
    let (status, body) = others("pkg:deb/debian/acme-ledger");
    assert_eq!((status, body), others("pkg:deb/debian/acme-nothing"));
    assert!(place.say(&stream, Duration::from_secs(20), std::iter::once(containers(2, true, Vec::new()))));
    until("both to end", Duration::from_secs(20), || place.service.status()["containers"] == 0);
    assert_eq!(others("acme-ledger@^4"), others("acme-nothing@^4"));
}
