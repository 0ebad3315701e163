-- Deliveries: what targets outside were told, and what they are told next.

-- The thing that an event is about: of several events that a target was not told, it is told the sum. NULL: an event of its own. Events
-- that were stored before have no target that waits for them.
DELETE FROM outbox;
ALTER TABLE outbox ADD COLUMN item TEXT;
CREATE INDEX outbox_item ON outbox (item, id) WHERE item IS NOT NULL;

-- Configured targets. One that is not configured any more is removed with everything that waits for it.
CREATE TABLE target (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    cluster INTEGER NOT NULL REFERENCES cluster,
    name TEXT NOT NULL,
    -- Digest of what selects its records: a target whose selection changed gets a snapshot.
    selection BLOB NOT NULL,
    -- The last event that its deliveries contain, or that it need not be told.
    cursor INTEGER NOT NULL,
    -- Place in a snapshot, as JSON; NULL where it is complete.
    snapshot TEXT,
    -- Grows whenever a snapshot is requested: progress that was computed before is not stored.
    revision INTEGER NOT NULL DEFAULT 0,
    -- Number of its last delivery.
    sequence INTEGER NOT NULL DEFAULT 0,
    -- Events that were dropped because too many waited.
    dropped INTEGER NOT NULL DEFAULT 0,
    delivered_at INTEGER,
    UNIQUE (cluster, name)
) STRICT;

-- Package sets that subjects had when the target was last told of them.
CREATE TABLE target_subject (
    target INTEGER NOT NULL REFERENCES target ON DELETE CASCADE,
    subject INTEGER NOT NULL,
    package_set INTEGER NOT NULL,
    PRIMARY KEY (target, subject, package_set)
) STRICT, WITHOUT ROWID;
CREATE INDEX target_subject_by_package_set ON target_subject (target, package_set);

-- Package sets whose findings the target was told.
CREATE TABLE target_package_set (
    target INTEGER NOT NULL REFERENCES target ON DELETE CASCADE,
    package_set INTEGER NOT NULL,
    chain BLOB NOT NULL,
    -- The last event when the target was told of the first finding: earlier events say nothing new.
    head INTEGER NOT NULL,
    -- The last verdict that it was told of; NULL where it was told of all.
    after INTEGER,
    PRIMARY KEY (target, package_set)
) STRICT, WITHOUT ROWID;

-- Items whose events up to the cursor were not told, because later ones wait: the kind of the first event.
CREATE TABLE target_pending (
    target INTEGER NOT NULL REFERENCES target ON DELETE CASCADE,
    item TEXT NOT NULL,
    kind TEXT NOT NULL,
    PRIMARY KEY (target, item)
) STRICT, WITHOUT ROWID;

-- Deliveries that wait to be sent, and those that the target refused.
CREATE TABLE delivery (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    target INTEGER NOT NULL REFERENCES target ON DELETE CASCADE,
    -- The idempotency key.
    key TEXT NOT NULL UNIQUE,
    sequence INTEGER NOT NULL,
    at INTEGER NOT NULL,
    records INTEGER NOT NULL,
    -- Why the target refused it, and when; NULL where it waits.
    refused TEXT,
    refused_at INTEGER,
    -- As it is sent.
    body BLOB NOT NULL
) STRICT;
CREATE INDEX delivery_by_target ON delivery (target, id) WHERE refused IS NULL;
