//! Consumer groups: coordinator, members, offsets.
