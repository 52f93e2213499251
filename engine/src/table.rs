//! Newest value per key of an internal partition.
