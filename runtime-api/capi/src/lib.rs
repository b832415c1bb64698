//! The C table of vmrt, from both sides.
