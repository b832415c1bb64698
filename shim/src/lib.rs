//! containerd-shim-vmrt-v2, a thin ttrpc server over the Runtime trait.
