//! Placeholder while the crate's first code is written.
