-- Digests of layers as nodes report them that cannot read overlay's opaque marks, for layers that were read with the marks: so that such
-- nodes can verify them. Not a column of `layer`, which would come after the inventory.
CREATE TABLE layer_without_marks (
    layer TEXT PRIMARY KEY REFERENCES layer ON DELETE CASCADE,
    digest BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- Nodes that decided paths which the inventories of a stack's layers cannot decide, as JSON: distrusting them undoes what they decided.
ALTER TABLE stack ADD COLUMN checked_by TEXT NOT NULL DEFAULT '[]';
