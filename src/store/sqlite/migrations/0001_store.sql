-- What layers and stacks hold, what was found in them, and who ran them when. What nodes have now is told by themselves, and not kept
-- here. Times are seconds since 1970.

CREATE TABLE layer (
    -- `diff:sha256:…` or `chain:sha256:…`
    id TEXT PRIMARY KEY,
    -- SHA-256 of the canonical encoding: two honest readers agree on it.
    digest BLOB NOT NULL,
    -- Bytes of the canonical encoding.
    size INTEGER NOT NULL,
    cataloguers INTEGER NOT NULL,
    -- Who read it, in which cage, and whether overlay's marks could be seen.
    node TEXT NOT NULL,
    cage TEXT NOT NULL,
    marks INTEGER NOT NULL,
    read_at INTEGER NOT NULL,
    -- The canonical encoding, compressed with zstd. Last, so that the rest of the row is read without it.
    inventory BLOB NOT NULL
) STRICT;

-- Nodes that read a layer as well, and came to the same.
CREATE TABLE verification (
    layer TEXT NOT NULL REFERENCES layer ON DELETE CASCADE,
    node TEXT NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (layer, node)
) STRICT, WITHOUT ROWID;

-- Nodes whose reading is not believed.
CREATE TABLE distrusted (
    node TEXT PRIMARY KEY,
    at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- os-release(5), as far as matching and people need it.
CREATE TABLE distribution (
    id INTEGER PRIMARY KEY,
    os TEXT NOT NULL,
    version TEXT NOT NULL,
    codename TEXT NOT NULL,
    name TEXT NOT NULL
) STRICT;

-- Every package once, however many stacks have it.
CREATE TABLE package (
    id INTEGER PRIMARY KEY,
    -- As purl names it: deb, npm, maven, …
    type TEXT NOT NULL,
    name TEXT NOT NULL,
    -- The name without what stands before its last `:` or `/`: `log4j-core` of `org.apache.logging.log4j:log4j-core`.
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
-- People ask for names as they remember them.
CREATE INDEX package_name ON package (name COLLATE NOCASE);
CREATE INDEX package_short ON package (short COLLATE NOCASE);
CREATE INDEX package_order ON package (name, version, id);
CREATE INDEX package_purl ON package (purl);

-- Paths that list a package, one a line, with the place in an archive after `!/`.
CREATE TABLE evidence (
    id INTEGER PRIMARY KEY,
    paths TEXT NOT NULL
) STRICT;

CREATE TABLE stack (
    id INTEGER PRIMARY KEY,
    -- The chain ID of the newest layer: the stack's identity.
    chain BLOB NOT NULL UNIQUE,
    -- Identities of its layers, newest first, one a line.
    layers TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    distribution INTEGER REFERENCES distribution,
    -- Types of its packages: bit n is the type whose number in the encoding of facts is n.
    types INTEGER NOT NULL,
    -- The oldest version of the cataloguers that read one of its layers; 0 where its packages were removed, since nobody ran it.
    cataloguers INTEGER NOT NULL,
    packages INTEGER NOT NULL,
    unidentified INTEGER NOT NULL,
    -- What follows from its open findings, kept since the status of all stacks is asked for often: how many are left to the
    -- distribution; how many there are of each severity, the mildest first, and from each layer, newest first, as JSON.
    withheld INTEGER NOT NULL DEFAULT 0,
    severities TEXT NOT NULL DEFAULT '[]',
    by_layer TEXT NOT NULL DEFAULT '[]'
) STRICT;

CREATE TABLE stack_package (
    stack INTEGER NOT NULL REFERENCES stack ON DELETE CASCADE,
    package INTEGER NOT NULL,
    -- The package that installed it, unchanged; 0 for none.
    owner INTEGER NOT NULL,
    -- Index into the stack's layers.
    layer INTEGER NOT NULL,
    evidence INTEGER NOT NULL,
    PRIMARY KEY (stack, package, owner)
) STRICT, WITHOUT ROWID;
CREATE INDEX stack_package_by_package ON stack_package (package, stack);

-- A problem of a package, whatever stack it is in.
CREATE TABLE verdict (
    id INTEGER PRIMARY KEY,
    package INTEGER NOT NULL,
    problem TEXT NOT NULL,
    -- Whether the package's distribution, which owns it, has no word on it.
    unassessed INTEGER NOT NULL,
    -- How bad, the worst first: 0 is critical.
    rank INTEGER NOT NULL,
    score REAL,
    status TEXT NOT NULL,
    fixed TEXT,
    summary TEXT NOT NULL,
    -- Every other name of the problem, one a line.
    aliases TEXT NOT NULL,
    UNIQUE (package, problem, unassessed)
) STRICT;
CREATE INDEX verdict_order ON verdict (rank, problem, id);

-- A problem by any of its names.
CREATE TABLE problem (
    name TEXT NOT NULL COLLATE NOCASE,
    verdict INTEGER NOT NULL REFERENCES verdict ON DELETE CASCADE,
    PRIMARY KEY (name, verdict)
) STRICT, WITHOUT ROWID;

-- A generation of a finding: from when to when matching said so. A row that says the same is not touched.
CREATE TABLE finding (
    stack INTEGER NOT NULL REFERENCES stack ON DELETE CASCADE,
    verdict INTEGER NOT NULL,
    opened INTEGER NOT NULL,
    closed INTEGER,
    PRIMARY KEY (stack, verdict, opened)
) STRICT, WITHOUT ROWID;
CREATE INDEX finding_by_verdict ON finding (verdict, stack);

-- Who runs stacks: an opaque key.
CREATE TABLE subject (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE
) STRICT;

-- A subject ran a stack, from when to when.
CREATE TABLE run (
    subject INTEGER NOT NULL REFERENCES subject ON DELETE CASCADE,
    stack INTEGER NOT NULL REFERENCES stack ON DELETE CASCADE,
    since INTEGER NOT NULL,
    until INTEGER,
    PRIMARY KEY (subject, stack, since)
) STRICT, WITHOUT ROWID;
CREATE INDEX run_open ON run (subject, stack) WHERE until IS NULL;
CREATE INDEX run_by_stack ON run (stack, until);

-- Everything was matched against a database; not ended while `seconds` is NULL.
CREATE TABLE rematch (
    id INTEGER PRIMARY KEY,
    database BLOB NOT NULL,
    at INTEGER NOT NULL,
    seconds REAL,
    stacks INTEGER NOT NULL DEFAULT 0,
    appeared INTEGER NOT NULL DEFAULT 0,
    went INTEGER NOT NULL DEFAULT 0
) STRICT;
