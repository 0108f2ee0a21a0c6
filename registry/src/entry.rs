//! One service that is there.

use serde::{Deserialize, Serialize};

/// What a service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A controller.
    Controller,
    /// A push manager.
    PushManager,
    /// A connect node.
    Node,
}

#[cfg(feature = "etcd")]
impl Kind {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Controller, Self::PushManager, Self::Node];

    /// Where the keys of its services are.
    pub(crate) fn folder(self) -> &'static str {
        match self {
            Self::Controller => "/ringcast/controllers/",
            Self::PushManager => "/ringcast/push-managers/",
            Self::Node => "/ringcast/nodes/",
        }
    }
}

/// A service, as it tells of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Its id, unique among those of its kind.
    pub id: String,
    /// Which start of it this is: Unix time of its start in microseconds.
    pub incarnation: u64,
    /// host:port of its gRPC server.
    pub grpc_address: String,
    /// Where clients reach a node; empty where it was not told.
    #[serde(default)]
    pub public_ws_url: String,
}

#[cfg(feature = "etcd")]
impl Entry {
    /// Its key in etcd.
    pub(crate) fn key(&self) -> String {
        format!("{}{}", self.kind.folder(), self.id)
    }

    /// Whether the other tells of the same service, perhaps of another start of it.
    pub(crate) fn is_same_service(&self, other: &Self) -> bool {
        self.kind == other.kind && self.id == other.id
    }
}
