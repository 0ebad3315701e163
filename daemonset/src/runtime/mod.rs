//! Who runs here?
