//! Tests that need a running test cluster: `OUTCROP_CLUSTER` names its script, `tests/cluster/cluster`.

mod cluster_parts;
mod containers;
mod crowded;
mod installed;
mod operators;
mod pod_security;
