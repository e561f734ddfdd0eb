//! What the test binaries share: the real binary as a process, its clients, the emulators of the cloud, and the oracle.

pub(crate) mod clients;
pub(crate) mod emulators;
pub(crate) mod gateway;
pub(crate) mod ledger;
pub(crate) mod oracle;
pub(crate) mod ports;
pub(crate) mod shim;
pub(crate) mod warehouse;
