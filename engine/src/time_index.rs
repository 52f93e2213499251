//! Sparse indexes of a segment.
