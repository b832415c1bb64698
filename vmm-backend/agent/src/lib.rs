//! PID 1 of the guest: the Runtime trait on plain Linux.
