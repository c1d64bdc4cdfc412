//! Tests of the whole: see `e2e/`.
