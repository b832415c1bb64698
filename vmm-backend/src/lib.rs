//! VmRuntime: one virtual machine for each sandbox.
