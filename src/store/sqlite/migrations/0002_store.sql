-- The store, version 2. Times are seconds since 1970. Ids are assigned by the database and never twice (AUTOINCREMENT), so that an id
-- that somebody remembers never means another row. What nodes have at the moment they report themselves; it is not stored.

PRAGMA application_id = 0x4f555443;

-- Clusters: the store belongs to one.
CREATE TABLE cluster (
    id INTEGER PRIMARY KEY,
    -- UID of the namespace kube-system; outside Kubernetes the name given by --cluster.
    key TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL
) STRICT;

-- One row.
CREATE TABLE meta (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    cluster INTEGER NOT NULL REFERENCES cluster,
    -- When the store was last probed with a real write.
    probed_at INTEGER NOT NULL
) STRICT;

CREATE TABLE layer (
    -- `diff:sha256:…` or `chain:sha256:…`
    id TEXT PRIMARY KEY,
    -- SHA-256 of the canonical encoding: two honest readers agree on it.
    digest BLOB NOT NULL,
    -- Size of the canonical encoding, bytes.
    size INTEGER NOT NULL,
    catalogers INTEGER NOT NULL,
    -- The node that read it, the sandbox in which it did, and whether overlay's opaque marks could be read.
    node TEXT NOT NULL,
    cage TEXT NOT NULL,
    marks INTEGER NOT NULL,
    read_at INTEGER NOT NULL,
    -- The canonical encoding, compressed with zstd. Last, so that the rest of the row is read without it.
    inventory BLOB NOT NULL
) STRICT;

-- Nodes that read the same of a layer.
CREATE TABLE verification (
    layer TEXT NOT NULL REFERENCES layer ON DELETE CASCADE,
    node TEXT NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (layer, node)
) STRICT, WITHOUT ROWID;

-- Distrusted nodes.
CREATE TABLE distrusted (
    cluster INTEGER NOT NULL REFERENCES cluster,
    node TEXT NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (cluster, node)
) STRICT, WITHOUT ROWID;

-- os-release(5), as far as matching and people need it.
CREATE TABLE distribution (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    -- The first 16 bytes of the SHA-256 of the other columns: images choose these texts, so nobody may find a collision.
    key BLOB NOT NULL UNIQUE,
    os TEXT NOT NULL,
    version TEXT NOT NULL,
    codename TEXT NOT NULL,
    name TEXT NOT NULL
) STRICT;

-- Every package once, in however many package sets it is.
CREATE TABLE package (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    -- As in distribution.
    key BLOB NOT NULL UNIQUE,
    -- The purl type: deb, npm, maven, …
    type TEXT NOT NULL,
    name TEXT NOT NULL,
    -- The name without what precedes its last `:` or `/`: `log4j-core` of `org.apache.logging.log4j:log4j-core`.
    short TEXT NOT NULL,
    version TEXT NOT NULL,
    arch TEXT,
    source TEXT,
    source_version TEXT,
    vendor TEXT,
    module TEXT,
    -- Of an operating system's package.
    distribution INTEGER REFERENCES distribution,
    purl TEXT NOT NULL
) STRICT;
-- People type names as they remember them.
CREATE INDEX package_name ON package (name COLLATE NOCASE);
CREATE INDEX package_short ON package (short COLLATE NOCASE);
CREATE INDEX package_order ON package (name, version, id);
CREATE INDEX package_distribution ON package (distribution);

-- Paths that list a package, one per line, with the place in an archive after `!/`.
CREATE TABLE evidence (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    -- As in distribution.
    key BLOB NOT NULL UNIQUE,
    paths TEXT NOT NULL
) STRICT;

-- Advisory databases that something was matched against.
CREATE TABLE advisory_database (
    id INTEGER PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE
) STRICT;

-- What findings refer to.
CREATE TABLE package_set (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL CHECK (kind IN ('stack', 'node')),
    distribution INTEGER REFERENCES distribution,
    -- Types of its packages: bit n is the type whose number in the encoding of facts is n.
    types INTEGER NOT NULL,
    packages INTEGER NOT NULL,
    unidentified INTEGER NOT NULL,
    -- The database for which its findings are complete. NULL: it has to be matched.
    matched INTEGER REFERENCES advisory_database,
    -- Counts of its open findings, kept because the status of all package sets is read often: how many are left to the distribution,
    -- how many there are of each severity, worst first, and from each layer, newest first, as JSON.
    withheld INTEGER NOT NULL DEFAULT 0,
    severities TEXT NOT NULL DEFAULT '[]',
    by_layer TEXT NOT NULL DEFAULT '[]'
) STRICT;
CREATE INDEX package_set_matched ON package_set (matched);
CREATE INDEX package_set_distribution ON package_set (distribution);

CREATE TABLE stack (
    id INTEGER PRIMARY KEY REFERENCES package_set ON DELETE CASCADE,
    -- The chain ID of the newest layer: the stack's identity.
    chain BLOB NOT NULL UNIQUE,
    -- Identities of its layers, newest first, one per line. Not references: a layer may have to be read again.
    layers TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    -- The oldest version of the catalogers that read one of its layers; 0 where its packages were removed because nobody ran it.
    catalogers INTEGER NOT NULL,
    -- Digest of the inventories that it was merged from. NULL: it has to be merged.
    inputs BLOB
) STRICT;

CREATE TABLE package_set_package (
    package_set INTEGER NOT NULL REFERENCES package_set ON DELETE CASCADE,
    package INTEGER NOT NULL REFERENCES package,
    -- Counts the rows of one package, whose owners differ; 0 is the first.
    place INTEGER NOT NULL,
    -- The package that installed it, unchanged.
    owner INTEGER REFERENCES package,
    -- Index into the stack's layers.
    layer INTEGER NOT NULL,
    evidence INTEGER NOT NULL REFERENCES evidence,
    PRIMARY KEY (package_set, package, place)
) STRICT, WITHOUT ROWID;
CREATE INDEX package_set_package_by_package ON package_set_package (package, package_set);
CREATE INDEX package_set_package_by_owner ON package_set_package (owner) WHERE owner IS NOT NULL;
CREATE INDEX package_set_package_by_evidence ON package_set_package (evidence);

-- A vulnerability of a package, in whatever package set it is.
CREATE TABLE verdict (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    package INTEGER NOT NULL REFERENCES package,
    vulnerability TEXT NOT NULL,
    -- Whether the package's distribution, which owns it, does not assess the vulnerability.
    unassessed INTEGER NOT NULL,
    -- Severity, worst first: 0 is critical.
    rank INTEGER NOT NULL,
    score REAL,
    status TEXT NOT NULL,
    fixed TEXT,
    summary TEXT NOT NULL,
    -- Every other name of the vulnerability, one per line.
    aliases TEXT NOT NULL,
    UNIQUE (package, vulnerability, unassessed)
) STRICT;
CREATE INDEX verdict_order ON verdict (rank, vulnerability, id);

-- Verdicts by any name of their vulnerability.
CREATE TABLE vulnerability_name (
    name TEXT NOT NULL COLLATE NOCASE,
    verdict INTEGER NOT NULL REFERENCES verdict ON DELETE CASCADE,
    PRIMARY KEY (name, verdict)
) STRICT, WITHOUT ROWID;
CREATE INDEX vulnerability_name_by_verdict ON vulnerability_name (verdict);

-- A generation of a finding: from when to when matching found it. A row that stays the same is not touched.
CREATE TABLE finding (
    package_set INTEGER NOT NULL REFERENCES package_set ON DELETE CASCADE,
    verdict INTEGER NOT NULL REFERENCES verdict,
    opened INTEGER NOT NULL,
    closed INTEGER,
    PRIMARY KEY (package_set, verdict, opened)
) STRICT, WITHOUT ROWID;
CREATE INDEX finding_by_verdict ON finding (verdict, package_set);

-- Who has package sets. Columns that a kind does not use are empty.
CREATE TABLE subject (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    cluster INTEGER NOT NULL REFERENCES cluster,
    kind TEXT NOT NULL CHECK (kind IN ('workload-container', 'container', 'node')),
    -- Of the workload or the pod; of a container without a pod the runtime's namespace.
    namespace TEXT NOT NULL,
    workload_group TEXT NOT NULL,
    workload_kind TEXT NOT NULL,
    workload TEXT NOT NULL,
    container TEXT NOT NULL,
    node TEXT NOT NULL,
    UNIQUE (node, namespace, workload, container, workload_kind, workload_group, kind, cluster)
) STRICT;

-- A subject had a package set, from when to when.
CREATE TABLE run (
    subject INTEGER NOT NULL REFERENCES subject ON DELETE CASCADE,
    package_set INTEGER NOT NULL REFERENCES package_set ON DELETE CASCADE,
    since INTEGER NOT NULL,
    until INTEGER,
    PRIMARY KEY (subject, package_set, since)
) STRICT, WITHOUT ROWID;
CREATE INDEX run_open ON run (subject, package_set) WHERE until IS NULL;
CREATE INDEX run_by_package_set ON run (package_set, until);

-- Everything was matched against a database; not ended while `seconds` is NULL.
CREATE TABLE rematch (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    database INTEGER NOT NULL REFERENCES advisory_database,
    at INTEGER NOT NULL,
    seconds REAL,
    stacks INTEGER NOT NULL DEFAULT 0,
    appeared INTEGER NOT NULL DEFAULT 0,
    went INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Events for targets outside, oldest first. What they tell outlives what they tell of: no references but the cluster.
CREATE TABLE outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    cluster INTEGER NOT NULL REFERENCES cluster,
    at INTEGER NOT NULL,
    kind TEXT NOT NULL,
    -- The package set, or the subject as JSON, that the event is about.
    package_set INTEGER,
    subject TEXT,
    -- Version of the body's format, and the body as JSON.
    version INTEGER NOT NULL,
    body TEXT NOT NULL
) STRICT;

-- Open findings at the end of each day (YYYY-MM-DD, UTC), each counted once for each container that has it.
CREATE TABLE daily_count (
    day TEXT NOT NULL,
    cluster INTEGER NOT NULL REFERENCES cluster,
    -- Empty for containers without a pod.
    namespace TEXT NOT NULL,
    rank INTEGER NOT NULL,
    findings INTEGER NOT NULL,
    PRIMARY KEY (day, cluster, namespace, rank)
) STRICT, WITHOUT ROWID;
