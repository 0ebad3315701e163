-- Findings that are not stored, since the package set has too many: they make its coverage partial.
ALTER TABLE package_set ADD COLUMN dropped INTEGER NOT NULL DEFAULT 0;
