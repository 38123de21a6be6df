//! Objects with conditional writes.
