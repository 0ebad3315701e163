//! The command line and the aggregator.
