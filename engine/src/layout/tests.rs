//! Properties of the formats: what was written comes back, and nothing else is taken for it.
