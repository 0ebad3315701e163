//! Catalogers of language ecosystems: whole trees in, packages out.

pub(crate) mod fixtures;
pub(crate) mod golang;
pub(crate) mod hostile;
pub(crate) mod support;
