//! Not served yet.
