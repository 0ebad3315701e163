//! The simulated cluster: images, their layers, the packages in these, and the containers of each node.
//!
//! Everything follows from the shape and a number: an inventory is generated when it is requested, and is the same each time.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use outcrop_agent::catalog;
use outcrop_proto::fact::{Claim, Fact, FileDigest};
use outcrop_proto::identity::{chain_ids, layer_ids};
use outcrop_proto::inventory::{EvidenceRecord, Inventory, Tombstone, compress};
use outcrop_proto::paths::{Node, PathTableBuilder, walk_order};
use outcrop_proto::{Digest, Distribution, LayerId, Package, PackageType, SourcePackage};

/// How much there is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) nodes: usize,
    pub(crate) containers: usize,
    pub(crate) images: usize,
    pub(crate) layers: usize,
    pub(crate) seed: u64,
}

impl Shape {
    /// The fleet of the budget.
    pub(crate) const WHOLE: Self = Self { nodes: 5_000, containers: 150_000, images: 4_000, layers: 20_000, seed: 1 };
    /// One that a debug build takes in seconds.
    pub(crate) const SMALL: Self = Self { nodes: 12, containers: 120, images: 16, layers: 80, seed: 1 };
}

/// Spreads numbers: the finalizer of `splitmix64`.
pub(crate) fn mix(parts: &[u64]) -> u64 {
    parts.iter().fold(0x9e37_79b9_7f4a_7c15, |state, part| {
        let mut z = (state ^ part).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

/// A number below `end`, small ones far more often (Zipf's law, by a log-uniform draw).
fn popular(random: u64, end: usize) -> usize {
    let share = (random >> 11) as f64 / (1_u64 << 53) as f64;
    ((end as f64).powf(share) as usize - 1).min(end - 1)
}

/// A package of Debian.
#[derive(Debug)]
struct Deb {
    name: &'static str,
    version: &'static str,
    arch: &'static str,
    source: &'static str,
    source_version: &'static str,
    files: Vec<&'static str>,
}

/// A package of Debian as it is installed, `age` updates old.
type Installed = BTreeMap<usize, u64>;

/// The cluster.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) shape: Shape,
    debs: Vec<Deb>,
    /// How many of `debs` every base has.
    essential: usize,
    apps: HashMap<PackageType, Vec<(&'static str, &'static str)>>,
    bases: usize,
    middles: usize,
    images: Vec<Image>,
    by_id: HashMap<LayerId, usize>,
    made: Mutex<Made>,
}

/// An image: its layers by number, newest first, and by identity.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) name: String,
    pub(crate) layers: Vec<usize>,
    pub(crate) ids: Vec<LayerId>,
    pub(crate) stack: Digest,
}

/// Inventories that were made, compressed, up to a bound; and every digest.
#[derive(Debug, Default)]
struct Made {
    compressed: HashMap<usize, Arc<Vec<u8>>>,
    bytes: usize,
    digests: HashMap<usize, Digest>,
}

/// Most bytes of inventories that are kept made.
const KEPT: usize = 128 << 20;

/// The version with which `age` updates are missing: `…+deb12u7` is `…+deb12u5` two updates before.
fn older(version: &str, age: u64) -> String {
    let Some((before, update)) = version.rsplit_once("deb12u") else { return version.to_owned() };
    let digits = update.find(|c: char| !c.is_ascii_digit()).unwrap_or(update.len());
    let number: u64 = update[..digits].parse().unwrap_or(1);
    format!("{before}deb12u{}{}", number.saturating_sub(age).max(1), &update[digits..])
}

impl World {
    pub(crate) fn new(shape: Shape) -> Arc<Self> {
        let mut debs = Vec::new();
        let mut essential = 0;
        for line in include_str!("data/debian.tsv").lines() {
            let fields: Vec<&str> = line.split('\t').collect();
            let [kind, name, version, arch, source, source_version, files] = fields[..] else {
                panic!("debian.tsv: {line}")
            };
            essential += usize::from(kind == "base");
            let files = files.split(',').filter(|path| !path.is_empty()).collect();
            debs.push(Deb { name, version, arch, source, source_version, files });
        }
        let mut apps: HashMap<PackageType, Vec<_>> = HashMap::new();
        for line in include_str!("data/apps.tsv").lines() {
            let fields: Vec<&str> = line.split('\t').collect();
            let [kind, name, version] = fields[..] else { panic!("apps.tsv: {line}") };
            apps.entry(PackageType::from_name(kind).unwrap()).or_default().push((name, version));
        }
        let bases = (shape.layers / 500).max(2);
        let middles = (shape.layers * 38 / 1000).max(bases * 2).min(shape.images);
        let mut world = Self {
            shape,
            debs,
            essential,
            apps,
            bases,
            middles,
            images: Vec::new(),
            by_id: HashMap::new(),
            made: Mutex::default(),
        };
        world.make_images();
        Arc::new(world)
    }

    fn make_images(&mut self) {
        let Shape { images, layers, seed, .. } = self.shape;
        let own = layers - self.bases - self.middles;
        let mut next = self.bases + self.middles;
        for image in 0..images {
            let middle =
                if image < self.middles { image } else { popular(mix(&[seed, 1, image as u64]), self.middles) };
            let mut numbers = vec![middle % self.bases];
            numbers.extend(self.parent(middle).map(|parent| self.bases + parent));
            numbers.push(self.bases + middle);
            let count = own / images + usize::from(image < own % images);
            numbers.extend(next..next + count);
            next += count;
            let diff_ids: Vec<Digest> = numbers.iter().map(|number| self.diff_id(*number)).collect();
            let mut chain = chain_ids(&diff_ids);
            chain.reverse();
            numbers.reverse();
            let ids = layer_ids(&chain, Some(&diff_ids));
            self.by_id.extend(ids.iter().copied().zip(numbers.iter().copied()));
            let name = format!("registry.example/team-{:02}/app-{image:04}:1", image % 40);
            self.images.push(Image { name, layers: numbers, ids, stack: chain[0] });
        }
        assert_eq!((next, self.by_id.len()), (layers, layers), "each layer is in an image");
    }

    /// Every second middle layer stands on another one of the same base.
    fn parent(&self, middle: usize) -> Option<usize> {
        (middle / self.bases % 2 == 1).then(|| middle - self.bases)
    }

    fn diff_id(&self, layer: usize) -> Digest {
        Digest::of(format!("{} layer {layer}", self.shape.seed).as_bytes())
    }

    pub(crate) fn image(&self, number: usize) -> &Image {
        &self.images[number]
    }

    /// The image that the container runs: each is run at least once, and a few are run everywhere.
    pub(crate) fn image_of(&self, container: usize) -> usize {
        if container < self.shape.images {
            return container;
        }
        popular(mix(&[self.shape.seed, 2, container as u64]), self.shape.images)
    }

    pub(crate) fn layer(&self, id: &LayerId) -> Option<usize> {
        self.by_id.get(id).copied()
    }

    fn random(&self, parts: &[u64]) -> u64 {
        mix(&[&[self.shape.seed, 3], parts].concat())
    }

    /// The inventory of a layer as it travels: compressed, with the digest of its encoding.
    pub(crate) fn compressed(&self, layer: usize) -> Arc<Vec<u8>> {
        if let Some(made) = self.made.lock().unwrap().compressed.get(&layer) {
            return Arc::clone(made);
        }
        let encoding = self.inventory(layer).encode();
        let compressed = Arc::new(compress(&encoding).unwrap());
        let mut made = self.made.lock().unwrap();
        if made.bytes > KEPT {
            (made.compressed, made.bytes) = (HashMap::new(), 0);
        }
        made.bytes += compressed.len();
        made.compressed.insert(layer, Arc::clone(&compressed));
        made.digests.insert(layer, Digest::of(&encoding));
        compressed
    }

    /// The digest of a layer's inventory.
    pub(crate) fn digest(&self, layer: usize) -> Digest {
        if let Some(digest) = self.made.lock().unwrap().digests.get(&layer) {
            return *digest;
        }
        let digest = self.inventory(layer).digest();
        self.made.lock().unwrap().digests.insert(layer, digest);
        digest
    }

    /// What a layer of packages of the distribution leaves installed, and what of it the layer brought.
    fn installed(&self, layer: usize) -> (Installed, Vec<usize>) {
        let number = layer as u64;
        let optional = self.debs.len() - self.essential;
        if layer < self.bases {
            let extra = self.random(&[1, number]) as usize % 313;
            let first = self.random(&[2, number]) as usize % optional;
            let more = (0..extra).map(|step| self.essential + (first + step) % optional);
            let age = self.random(&[3, number]) % 8;
            let installed: Installed = (0..self.essential).chain(more).map(|deb| (deb, age)).collect();
            let brought = installed.keys().copied().collect();
            return (installed, brought);
        }
        let middle = layer - self.bases;
        let below = self.parent(middle).map_or(middle % self.bases, |parent| self.bases + parent);
        let (mut installed, _) = self.installed(below);
        let mut brought = BTreeSet::new();
        // One in three updates what lies below it.
        if self.random(&[4, number]).is_multiple_of(3) {
            for (deb, age) in installed.iter_mut().filter(|(_, age)| **age > 0) {
                *age = 0;
                if self.debs[*deb].version.contains("deb12u") {
                    brought.insert(*deb);
                }
            }
        }
        let age = installed.values().copied().min().unwrap_or_default();
        let first = self.random(&[5, number]) as usize % optional;
        for step in 0..10 + self.random(&[6, number]) as usize % 110 {
            let deb = self.essential + (first + step * 3) % optional;
            if let Entry::Vacant(vacant) = installed.entry(deb) {
                vacant.insert(age);
                brought.insert(deb);
            }
        }
        (installed, brought.into_iter().collect())
    }

    /// The packages of an image, each as `type name version`: what everybody must say of it.
    pub(crate) fn packages(&self, image: usize) -> BTreeSet<String> {
        let layers = &self.images[image].layers;
        let mut packages = BTreeSet::new();
        let os = layers.iter().find(|layer| **layer < self.bases + self.middles).unwrap();
        for (deb, age) in self.installed(*os).0 {
            let Deb { name, version, .. } = self.debs[deb];
            packages.insert(format!("deb {name} {}", older(version, age)));
        }
        for layer in layers.iter().filter(|layer| **layer >= self.bases + self.middles) {
            for (kind, name, version) in self.app(*layer) {
                packages.insert(format!("{kind} {name} {version}"));
            }
        }
        packages
    }

    /// The packages of a layer of an application: the first of an image's own layers brings its dependencies, others bring none.
    fn app(&self, layer: usize) -> Vec<(PackageType, &'static str, &'static str)> {
        let number = (layer - self.bases - self.middles) as u64;
        let is_first = layer == self.bases + self.middles || self.image_with(layer) != self.image_with(layer - 1);
        let (kind, count) = match (is_first, self.random(&[7, number]) % 20) {
            (true, 0..7) => (PackageType::Npm, 60 + self.random(&[8, number]) % 400),
            (true, 7..12) => (PackageType::Pypi, 10 + self.random(&[8, number]) % 60),
            (true, 12..16) => (PackageType::Maven, 20 + self.random(&[8, number]) % 130),
            (true, 16..19) => (PackageType::Golang, 5 + self.random(&[8, number]) % 80),
            _ => return Vec::new(),
        };
        let all = &self.apps[&kind];
        let mut chosen: BTreeMap<&str, &str> = BTreeMap::new();
        for step in 0..count {
            let (name, version) = all[self.random(&[9, number, step]) as usize % all.len()];
            chosen.entry(name).or_insert(version);
        }
        // What everybody asks about, in two versions.
        let is_old = self.random(&[12, number]).is_multiple_of(3);
        match kind {
            PackageType::Npm => chosen.insert("lodash", if is_old { "4.17.20" } else { "4.17.21" }),
            PackageType::Maven => {
                chosen.insert("org.apache.logging.log4j:log4j-core", if is_old { "2.14.1" } else { "2.17.1" })
            }
            _ => None,
        };
        chosen.into_iter().map(|(name, version)| (kind, name, version)).collect()
    }

    /// The image that a layer of an application is in.
    fn image_with(&self, layer: usize) -> usize {
        let own = self.shape.layers - self.bases - self.middles;
        let (each, more) = (own / self.shape.images, own % self.shape.images);
        let number = layer - self.bases - self.middles;
        if number < more * (each + 1) { number / (each + 1) } else { more + (number - more * (each + 1)) / each }
    }

    pub(crate) fn inventory(&self, layer: usize) -> Inventory {
        let mut making = Making::new();
        if layer < self.bases + self.middles {
            self.make_os(layer, &mut making);
        } else {
            self.make_app(layer, &mut making);
        }
        making.finish()
    }

    fn make_os(&self, layer: usize, making: &mut Making) {
        let (installed, brought) = self.installed(layer);
        if brought.iter().any(|deb| self.debs[*deb].name == "base-files") {
            let distribution = Distribution {
                id: "debian".to_owned(),
                version_id: "12".to_owned(),
                codename: "bookworm".to_owned(),
                name: "Debian GNU/Linux 12 (bookworm)".to_owned(),
                id_like: Vec::new(),
            };
            let fact = Fact { distribution: Some(distribution), ..Fact::default() };
            making.evidence("usr/lib/os-release", "os-release", false, fact);
            making.links.push(("etc/os-release".to_owned(), "../usr/lib/os-release"));
        }
        let packages = installed.iter().map(|(deb, age)| {
            let Deb { name, version, arch, source, source_version, .. } = self.debs[*deb];
            let source = SourcePackage { name: source.to_owned(), version: older(source_version, *age) };
            Package {
                arch: Some(arch.to_owned()),
                source: Some(source),
                ..Package::new(PackageType::Deb, name, older(version, *age))
            }
        });
        let status = Fact { packages: packages.collect(), ..Fact::default() };
        making.evidence("var/lib/dpkg/status", "dpkg", true, status);
        for deb in brought {
            let Deb { name, ref files, .. } = self.debs[deb];
            let md5 = |path: &str| {
                let digest = Digest::of(format!("{path} {} {}", self.debs[deb].version, installed[&deb]).as_bytes());
                FileDigest::Md5(digest.0[..16].try_into().unwrap())
            };
            let claim = |path: &&str| Claim {
                path: path.as_bytes().to_vec(),
                package: name.to_owned(),
                digest: Some(md5(path)),
            };
            let claims = Fact { claims: files.iter().map(claim).collect(), ..Fact::default() };
            making.evidence(&format!("var/lib/dpkg/info/{name}.md5sums"), "dpkg", false, claims);
            making.file(format!("var/lib/dpkg/info/{name}.list"));
            for path in files {
                // Executables that are no programs of Go.
                if path.contains("bin/") { making.nothing(path, "golang") } else { making.file((*path).to_owned()) }
            }
            for number in 0..40 + mix(&[deb as u64]) % 60 {
                making.file(format!("usr/share/{name}/{:x}/{:x}.dat", number % 7, mix(&[deb as u64, number]) >> 40));
            }
        }
    }

    fn make_app(&self, layer: usize, making: &mut Making) {
        let number = layer as u64;
        let packages = self.app(layer);
        let one = |kind, name, version| Fact { packages: vec![Package::new(kind, name, version)], ..Fact::default() };
        match packages.first().map(|(kind, ..)| *kind) {
            Some(kind @ (PackageType::Npm | PackageType::Pypi)) => {
                for (_, name, version) in packages {
                    let (home, path, cataloger) = if kind == PackageType::Npm {
                        let home = format!("srv/app/node_modules/{name}");
                        (home.clone(), format!("{home}/package.json"), "npm")
                    } else {
                        let site = "usr/local/lib/python3.11/site-packages";
                        (format!("{site}/{name}"), format!("{site}/{name}-{version}.dist-info/METADATA"), "python")
                    };
                    making.evidence(&path, cataloger, false, one(kind, name, version));
                    let files = if kind == PackageType::Npm { 28 } else { 150 };
                    for file in 0..files {
                        making.file(format!("{home}/lib/{:x}.js", mix(&[file, number, version.len() as u64]) >> 44));
                    }
                }
            }
            Some(PackageType::Maven) => {
                let package = |(kind, name, version): (PackageType, &str, &str)| {
                    let artifact = name.rsplit(':').next().unwrap();
                    let inner = Some(format!("BOOT-INF/lib/{artifact}-{version}.jar"));
                    Package { inner, ..Package::new(kind, name, version) }
                };
                let packages = packages.into_iter().map(package).collect();
                making.evidence("srv/app/app.jar", "java", false, Fact { packages, ..Fact::default() });
            }
            Some(_) => {
                let packages = packages.into_iter().map(|(kind, name, version)| Package::new(kind, name, version));
                let fact = Fact { packages: packages.collect(), ..Fact::default() };
                making.evidence("usr/local/bin/app", "golang", false, fact);
            }
            None => {}
        }
        for file in 0..3 + self.random(&[10, number]) % 120 {
            making.file(format!("srv/app/src/{:x}/{file:x}.bin", self.random(&[11, number, file % 9]) >> 44));
        }
    }
}

/// An inventory that is being made.
struct Making {
    inventory: Inventory,
    files: Vec<String>,
    links: Vec<(String, &'static str)>,
}

impl Making {
    fn new() -> Self {
        let inventory = Inventory { catalogers: catalog::VERSION, ..Inventory::default() };
        Self { inventory, files: Vec::new(), links: Vec::new() }
    }

    fn file(&mut self, path: String) {
        self.files.push(path);
    }

    fn evidence(&mut self, path: &str, cataloger: &str, database: bool, fact: Fact) {
        let fact = self.inventory.add_fact(fact);
        self.inventory.evidence.push(EvidenceRecord {
            path: path.as_bytes().to_vec(),
            cataloger: cataloger.to_owned(),
            database,
            fact,
            digest: None,
            companions: Vec::new(),
        });
        self.file(path.to_owned());
    }

    fn nothing(&mut self, path: &str, cataloger: &str) {
        let (path, cataloger) = (path.as_bytes().to_vec(), cataloger.to_owned());
        self.file(String::from_utf8_lossy(&path).into_owned());
        self.inventory.tombstones.push(Tombstone { path, cataloger, database: false, reason: String::new() });
    }

    fn finish(mut self) -> Inventory {
        let mut nodes: HashMap<&[u8], Node<'_>> = HashMap::new();
        for path in self.files.iter().chain(self.links.iter().map(|(path, _)| path)) {
            let slashes = path.bytes().enumerate().filter(|(_, byte)| *byte == b'/');
            nodes.extend(slashes.map(|(at, _)| (&path.as_bytes()[..at], Node::Dir { opaque: false })));
        }
        nodes.extend(self.files.iter().map(|path| (path.as_bytes(), Node::File)));
        nodes.extend(self.links.iter().map(|(path, target)| (path.as_bytes(), Node::Symlink(target.as_bytes()))));
        let mut sorted: Vec<_> = nodes.into_iter().collect();
        sorted.sort_unstable_by(|(a, _), (b, _)| walk_order(a, b));
        let mut table = PathTableBuilder::default();
        sorted.iter().for_each(|(path, node)| table.push(path, node));
        self.inventory.paths = table.finish();
        self.inventory.tombstones.dedup_by(|a, b| a.path == b.path);
        self.inventory.normalize();
        self.inventory.tombstones.dedup_by(|a, b| a.path == b.path);
        self.inventory
    }
}
