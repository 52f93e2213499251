//! Leader epochs of a partition.
