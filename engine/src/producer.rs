//! Producer state of a partition.
