-- What layers and stacks hold, and what was found in them. What nodes have is told by themselves, and not kept here.

CREATE TABLE layer (
    -- `diff:sha256:…` or `chain:sha256:…`
    id TEXT PRIMARY KEY,
    -- The canonical encoding, compressed with zstd.
    inventory BLOB NOT NULL,
    -- SHA-256 of the canonical encoding: two honest readers agree on it.
    digest BLOB NOT NULL,
    cataloguers INTEGER NOT NULL,
    -- Who read it, in which cage, and whether overlay's marks could be seen.
    node TEXT NOT NULL,
    cage TEXT NOT NULL,
    marks INTEGER NOT NULL,
    -- Seconds since 1970.
    read_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE stack (
    -- The chain ID of the newest layer.
    id BLOB PRIMARY KEY,
    -- Identities of its layers, newest first, one a line.
    layers TEXT NOT NULL,
    -- What a node answered to what the layers leave open: an outcrop.v1.Answers.
    answers BLOB,
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    distribution TEXT,
    packages INTEGER NOT NULL,
    withheld INTEGER NOT NULL,
    unidentified INTEGER NOT NULL,
    -- How many findings of each severity, as a JSON object: the status of all stacks is asked for often.
    severities TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE assessed (
    stack BLOB NOT NULL REFERENCES stack ON DELETE CASCADE,
    ecosystem TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (stack, ecosystem)
) STRICT, WITHOUT ROWID;

CREATE TABLE finding (
    stack BLOB NOT NULL REFERENCES stack ON DELETE CASCADE,
    purl TEXT NOT NULL,
    id TEXT NOT NULL,
    -- Every other name of the problem, one a line.
    aliases TEXT NOT NULL,
    package TEXT NOT NULL,
    installed TEXT NOT NULL,
    status TEXT NOT NULL,
    fixed TEXT,
    severity TEXT NOT NULL,
    score REAL,
    -- Index into the stack's layers.
    layer INTEGER NOT NULL,
    summary TEXT NOT NULL,
    PRIMARY KEY (stack, purl, id)
) STRICT, WITHOUT ROWID;

-- A problem by any of its names.
CREATE TABLE problem (
    name TEXT NOT NULL,
    id TEXT NOT NULL,
    PRIMARY KEY (name, id)
) STRICT, WITHOUT ROWID;

CREATE INDEX finding_id ON finding (id);

CREATE TABLE package (
    stack BLOB NOT NULL REFERENCES stack ON DELETE CASCADE,
    purl TEXT NOT NULL,
    -- As purl names it: deb, npm, maven, …
    type TEXT NOT NULL,
    name TEXT NOT NULL,
    -- The name without what stands before its last `:` or `/`: `log4j-core` of `org.apache.logging.log4j:log4j-core`.
    short TEXT NOT NULL,
    version TEXT NOT NULL,
    -- The first path that lists it, with the place in an archive after `!/`.
    evidence TEXT NOT NULL,
    -- Index into the stack's layers.
    layer INTEGER NOT NULL,
    PRIMARY KEY (stack, purl, evidence)
) STRICT, WITHOUT ROWID;

CREATE INDEX package_name ON package (name);
CREATE INDEX package_short ON package (short);
