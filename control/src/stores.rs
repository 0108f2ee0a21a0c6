//! Which stores and which directory a controller uses, as its settings ask.
//!
//! Owns: what the cluster's build opens, and what is said of it in a build without the cluster. Must not: know what is
//! kept there. Talks to: `server`, before anything else is started.

use std::sync::Arc;

use ::registry::Directory;
use ringcast_proto::NodeId;
use settings::SettingError;
use tokio_util::sync::CancellationToken;

use crate::config::{Discovery, Settings};
use crate::metrics::Metrics;
#[cfg(feature = "cluster")]
use crate::presence_redis::PresenceRedis;
use crate::room_store::RoomStore;
#[cfg(feature = "cluster")]
use crate::rooms_mysql::MysqlRooms;
use crate::sharing::Sharing;
use crate::store::Store;

#[cfg(not(feature = "cluster"))]
const EMBEDDED_ONLY: &str = "this binary has the embedded stores only";

/// Opens the store of rooms. MySQL is waited for where it cannot be reached.
pub(crate) async fn open_rooms(
    settings: &Settings,
    embedded: &Store,
    metrics: &Metrics,
) -> Result<Arc<dyn RoomStore>, SettingError> {
    let Some(mysql) = &settings.mysql else { return Ok(Arc::new(embedded.clone())) };
    #[cfg(feature = "cluster")]
    return Ok(Arc::new(MysqlRooms::open(mysql, settings.max_rooms, metrics.store_errors.clone()).await?));
    #[cfg(not(feature = "cluster"))]
    {
        let _ = metrics;
        Err(SettingError::new("DB_HOST", &mysql.host, EMBEDDED_ONLY))
    }
}

/// The store of presence that controllers share, where there is one. Redis is not waited for; what goes on with it in
/// the background ends with `over`.
pub(crate) async fn open_sharing(
    settings: &Settings,
    over: &CancellationToken,
) -> Result<Option<Arc<Sharing>>, SettingError> {
    let Some(redis) = &settings.redis else { return Ok(None) };
    let addresses = redis.addresses.join(",");
    #[cfg(feature = "cluster")]
    {
        let store = PresenceRedis::connect(redis).await;
        let store = store.map_err(|error| SettingError::new("REDIS_ADDR", addresses, error.to_string()))?;
        Ok(Some(Arc::new(Sharing::new(Arc::new(store), over.clone()))))
    }
    #[cfg(not(feature = "cluster"))]
    {
        let _ = over;
        Err(SettingError::new("REDIS_ADDR", addresses, EMBEDDED_ONLY))
    }
}

/// The directory; what it does in the background ends with `over`. etcd is not waited for.
pub(crate) fn open_directory(
    settings: &Settings,
    over: &CancellationToken,
) -> Result<Directory, SettingError> {
    match &settings.discovery {
        Discovery::Fixed => {
            // Nothing goes on in the background.
            let _ = over;
            Ok(Directory::fixed(settings.peers.clone()))
        }
        #[cfg(feature = "cluster")]
        Discovery::Etcd(store) => {
            if settings.redis.is_none() {
                tracing::warn!(
                    "etcd without Redis: seats and members are those of each controller's own nodes"
                );
            }
            Directory::etcd(store, over.clone()).map_err(|::registry::RegistryError::Setting(error)| error)
        }
    }
}

/// The nodes that are waited for: those that this controller had when it was last up, as far as that is known.
pub(crate) async fn expected_nodes(
    settings: &Settings,
    store: &Store,
    sharing: Option<&Sharing>,
) -> anyhow::Result<Vec<NodeId>> {
    if let Some(nodes) = settings.expected_nodes.clone() {
        return Ok(nodes);
    }
    let noted = store.known_nodes().await?.into_iter().map(|node| node.id);
    let Some(sharing) = sharing else { return Ok(noted.collect()) };
    let records = match sharing.ask(sharing.store.nodes()).await {
        Ok(records) => records,
        Err(error) => {
            tracing::warn!(%error, "this controller's nodes are those that it noted itself");
            return Ok(noted.collect());
        }
    };
    // Nodes that have moved to other controllers since are not waited for; those that the store lost meanwhile are.
    let is_recorded = |node: &NodeId| records.iter().any(|record| record.card.id == *node);
    let mut expected: Vec<NodeId> = noted.filter(|node| !is_recorded(node)).collect();
    let own = records.iter().filter(|record| record.controller == settings.id);
    expected.extend(own.map(|record| record.card.id.clone()));
    Ok(expected)
}
