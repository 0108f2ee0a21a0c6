//! Who is there: controllers, push managers and nodes find one another, by etcd or at fixed addresses.
//!
//! Owns: the keys below `/ringcast/`, the lease under which a service is there, the list of all that are.
//! Must not: store anything else, or decide who is routed to. Talks to: etcd.
//!
//! A list is a hint that is checked: it is compared with etcd at least every second beside the watch, and it says
//! when it was last known to be true ([`View::as_of`]), so that a service can tell others that its view is old.

mod directory;
mod entry;
#[cfg(feature = "etcd")]
mod error;
#[cfg(feature = "etcd")]
mod etcd;
mod fixed;
mod lease;
mod registration;
mod view;

pub use directory::Directory;
pub use entry::{Entry, Kind};
#[cfg(feature = "etcd")]
pub use error::RegistryError;
pub use lease::Lease;
pub use registration::Registration;
pub use view::View;
