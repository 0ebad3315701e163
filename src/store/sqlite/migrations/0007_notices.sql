-- Notices: findings and problems that people are told of by notification targets, each once.

-- Notification targets. A row exists from the first portion on.
CREATE TABLE notification (
    target INTEGER PRIMARY KEY REFERENCES target ON DELETE CASCADE,
    -- When the first snapshot was complete: what it contained is in the first message as a summary. NULL: it is not complete.
    started INTEGER,
    -- Whether that message is not stored yet.
    summary INTEGER NOT NULL DEFAULT 1,
    -- Times of messages within the last hour, as JSON.
    sent TEXT NOT NULL DEFAULT '[]',
    -- Whether more notices would be stored than the limit allows.
    is_full INTEGER NOT NULL DEFAULT 0
) STRICT;

-- A vulnerability of a workload that people were told of, or are to be told of.
CREATE TABLE notice (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    target INTEGER NOT NULL REFERENCES target ON DELETE CASCADE,
    vulnerability TEXT NOT NULL,
    -- The workload. Of a subject that belongs to none it is the node, with the kind `Node` and no namespace.
    namespace TEXT NOT NULL,
    workload_group TEXT NOT NULL,
    workload_kind TEXT NOT NULL,
    workload TEXT NOT NULL,
    -- Severity as in `verdict`, and the verdict that has it. Not a reference: the notice outlives it.
    rank INTEGER NOT NULL,
    verdict INTEGER NOT NULL,
    at INTEGER NOT NULL,
    -- When a message with it was stored; NULL while it waits for one.
    told INTEGER,
    -- Since when the workload does not have the vulnerability; NULL while it has it.
    gone INTEGER,
    UNIQUE (target, vulnerability, workload, namespace, workload_kind, workload_group)
) STRICT;
CREATE INDEX notice_pending ON notice (target, at) WHERE told IS NULL;

-- Problems of Outcrop itself.
CREATE TABLE notice_problem (
    target INTEGER NOT NULL REFERENCES target ON DELETE CASCADE,
    problem TEXT NOT NULL,
    -- Empty where it is not known.
    message TEXT NOT NULL,
    at INTEGER NOT NULL,
    is_raised INTEGER NOT NULL,
    -- Whether people were told that it is raised.
    is_told INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (target, problem)
) STRICT, WITHOUT ROWID;
