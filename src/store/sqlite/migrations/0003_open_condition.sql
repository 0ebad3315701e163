-- Configuration issues and problems of which the outbox told that they began, and not yet that they ended: what of them ends while the
-- aggregator does not run is told after its next start.
CREATE TABLE open_condition (
    cluster INTEGER NOT NULL REFERENCES cluster,
    -- The condition's identity, as JSON.
    condition TEXT NOT NULL,
    PRIMARY KEY (cluster, condition)
) STRICT, WITHOUT ROWID;
