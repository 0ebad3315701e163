-- Documents that targets outside keep of what they were told, such as the files of a directory.

CREATE TABLE target_document (
    target INTEGER NOT NULL REFERENCES target ON DELETE CASCADE,
    name TEXT NOT NULL,
    -- SHA-256 and size in bytes of the content that the target accepted last: the same content is not sent again.
    digest BLOB NOT NULL,
    size INTEGER NOT NULL,
    -- The target's own identifier of the document, where it has one.
    remote TEXT,
    -- Whether a snapshot began since then: the content is sent again, or the document is removed when the snapshot ends.
    stale INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (target, name)
) STRICT, WITHOUT ROWID;
