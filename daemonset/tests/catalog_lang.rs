//! The cataloguers of language ecosystems, from outside: whole trees in, packages out.

#![allow(clippy::unwrap_used, reason = "helpers of tests are outside of what clippy takes for tests")]

mod catalog_lang {
    pub(crate) mod fixtures;
    pub(crate) mod golang;
    pub(crate) mod hostile;
    pub(crate) mod support;
}
