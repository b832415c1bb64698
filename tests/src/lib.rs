//! One conformance suite over every door of vmrt.
