//! libvmrt.so: the C table joined to vmm-backend.
