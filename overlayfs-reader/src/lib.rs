//! The merged view of overlayfs layers, read without mounting.
