//! The content-addressed repository.
