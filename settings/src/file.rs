//! The shape of `config.yaml`. A key that is left out keeps what the service has as its default; a key that is
//! not known here is an error.
//!
//! Owns: sections, keys, and their types. Must not: hold defaults (each service's `config.rs` does).
//! Talks to: `place` for the line and key of an error.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;
use serde::{Deserialize, Deserializer, de};

use crate::{SettingError, parse_address, parse_addresses, parse_duration, parse_ws_url, place};

/// The file that a service reads when none is named.
pub const IMPLICIT_PATH: &str = "config.yaml";

/// The largest file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// All of `config.yaml`; every section and key may be left out.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    /// MySQL, for rooms (cluster).
    pub database: Option<Database>,
    /// Redis, for presence (cluster).
    pub redis: Option<Redis>,
    /// etcd, for discovery (cluster).
    pub etcd: Option<Etcd>,
    /// Rooms.
    #[serde(deserialize_with = "or_default")]
    pub room: Room,
    /// The controller.
    #[serde(deserialize_with = "or_default")]
    pub server: Server,
    /// The connect node.
    #[serde(deserialize_with = "or_default")]
    pub connect: Connect,
    /// The push manager.
    #[serde(deserialize_with = "or_default")]
    pub push: Push,
}

/// Where MySQL is.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Database {
    /// Its host.
    pub host: Option<String>,
    /// Its port.
    pub port: Option<u16>,
    /// Who logs in.
    pub user: Option<String>,
    /// With which password.
    pub password: Option<SecretString>,
    /// The file that holds it.
    pub password_file: Option<PathBuf>,
    /// The database.
    pub dbname: Option<String>,
    /// disabled, preferred, required, verify_ca or verify_identity.
    pub tls: Option<String>,
    /// The authority that signed its certificate.
    pub ca_file: Option<PathBuf>,
}

/// Where Redis is.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Redis {
    /// Its host:port; several, separated by commas, of a Redis Cluster or of sentinels.
    pub addr: Option<String>,
    /// Who logs in.
    pub user: Option<String>,
    /// Its password; empty: none.
    pub password: Option<SecretString>,
    /// The file that holds it.
    pub password_file: Option<PathBuf>,
    /// The number of its database.
    pub db: Option<u32>,
    /// Whether the addresses are members of a Redis Cluster.
    pub cluster: Option<bool>,
    /// The master of which the addresses are sentinels.
    pub sentinel_master: Option<String>,
    /// Whether connections are TLS.
    pub tls: Option<bool>,
    /// The authority that signed its certificate.
    pub ca_file: Option<PathBuf>,
}

/// Where etcd is.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Etcd {
    /// host:port of its members.
    pub endpoints: Option<Vec<String>>,
    /// Who logs in.
    pub user: Option<String>,
    /// With which password.
    pub password: Option<SecretString>,
    /// The file that holds it.
    pub password_file: Option<PathBuf>,
    /// The authority that signed the members' certificates.
    pub ca_file: Option<PathBuf>,
    /// Our own certificate.
    pub cert_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
    /// How long a service that says nothing is still listed.
    #[serde(deserialize_with = "duration")]
    pub lease: Option<Duration>,
}

/// Rooms, as the controller keeps them.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Room {
    /// How many users a room takes that says nothing else; 0 = no limit.
    pub default_max_users: Option<u32>,
    /// The age at which a controller reads a room's settings anew.
    #[serde(deserialize_with = "duration")]
    pub cache_ttl: Option<Duration>,
    /// How many rooms there may be.
    pub max_rooms: Option<u32>,
}

/// The controller.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// Its id.
    pub id: Option<String>,
    /// Its gRPC port.
    pub port: Option<u16>,
    /// Its metrics port.
    pub metrics_port: Option<u16>,
    /// The address on which gRPC and metrics listen.
    pub bind: Option<IpAddr>,
    /// host:port at which the others reach its gRPC server.
    #[serde(deserialize_with = "address")]
    pub addr: Option<String>,
    /// The other controllers, where no etcd names them.
    #[serde(deserialize_with = "addresses")]
    pub peers: Option<String>,
    /// The folder of the embedded store.
    pub data_dir: Option<PathBuf>,
}

/// The connect node.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Connect {
    /// Its id.
    pub node_id: Option<String>,
    /// Its gRPC port.
    pub grpc_port: Option<u16>,
    /// Its HTTP and WebSocket port.
    pub http_port: Option<u16>,
    /// Its metrics port.
    pub metrics_port: Option<u16>,
    /// The address on which gRPC and metrics listen.
    pub bind: Option<IpAddr>,
    /// host:port at which push managers reach its gRPC server.
    #[serde(deserialize_with = "address")]
    pub node_addr: Option<String>,
    /// Where clients reach it, such as `ws://push.example.org:8080/ws`.
    #[serde(deserialize_with = "ws_url")]
    pub public_ws_url: Option<String>,
    /// host:port of the controller, or of each of them, separated by commas.
    #[serde(deserialize_with = "addresses")]
    pub controller_address: Option<String>,
    /// How many shards, that is threads.
    pub shards: Option<u16>,
    /// How it does its I/O: auto, io_uring or epoll.
    pub driver: Option<String>,
    /// What one client may do.
    #[serde(deserialize_with = "or_default")]
    pub limits: ConnectLimits,
}

/// What one client of a connect node may do.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConnectLimits {
    /// How many connections the node takes.
    pub max_connections: Option<u32>,
    /// The largest request head, in bytes.
    pub request_head_bytes: Option<u32>,
    /// How long a request head may take.
    #[serde(deserialize_with = "duration")]
    pub handshake_timeout: Option<Duration>,
    /// The largest message of a client, in bytes.
    pub client_message_bytes: Option<u32>,
    /// The largest payload of a push, in bytes.
    pub push_payload_bytes: Option<u32>,
    /// How many bytes may wait for one session, the socket's buffer counted in.
    pub queued_bytes: Option<u32>,
    /// SO_SNDBUF of a session's socket, in bytes.
    pub send_buffer_bytes: Option<u32>,
    /// How many rooms a session may be in.
    pub rooms_per_session: Option<u32>,
    /// How long a session is silent before it is pinged.
    #[serde(deserialize_with = "duration")]
    pub ping_interval: Option<Duration>,
    /// How long the answer to a ping may take.
    #[serde(deserialize_with = "duration")]
    pub pong_timeout: Option<Duration>,
    /// Over how long a planned stop closes the sessions.
    #[serde(deserialize_with = "duration")]
    pub drain: Option<Duration>,
}

/// The push manager.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Push {
    /// Its id.
    pub id: Option<String>,
    /// Its gRPC port.
    pub grpc_port: Option<u16>,
    /// Its metrics port.
    pub metrics_port: Option<u16>,
    /// The address on which gRPC and metrics listen.
    pub bind: Option<IpAddr>,
    /// host:port at which the others reach its gRPC server.
    #[serde(deserialize_with = "address")]
    pub addr: Option<String>,
    /// host:port of the controller, or of each of them, separated by commas.
    #[serde(deserialize_with = "addresses")]
    pub controller_address: Option<String>,
    /// The largest payload of a push, in bytes.
    pub push_payload_bytes: Option<u32>,
    /// How many threads it has.
    pub threads: Option<u16>,
}

/// Reads the file that was named, else, where `implicit`, `./config.yaml` if there is one, else nothing.
pub fn load(explicit: Option<&Path>, implicit: bool) -> Result<File, SettingError> {
    let path = match explicit {
        Some(path) => path,
        None if implicit && is_there(Path::new(IMPLICIT_PATH)) => Path::new(IMPLICIT_PATH),
        None => return Ok(File::default()),
    };
    let unreadable = |reason: String| SettingError::new("--config", path.display(), reason);
    let size = std::fs::metadata(path).map_err(|error| unreadable(format!("cannot be read: {error}")))?.len();
    if size > MAX_FILE_BYTES {
        return Err(unreadable(format!("has {size} bytes: give a file of at most {MAX_FILE_BYTES}")));
    }
    let text =
        std::fs::read_to_string(path).map_err(|error| unreadable(format!("cannot be read: {error}")))?;
    parse(&text, &path.display().to_string())
}

/// Whether there is something by this name, also what cannot be read: that is to be told and not to be passed over.
fn is_there(path: &Path) -> bool {
    !matches!(std::fs::symlink_metadata(path), Err(error) if error.kind() == ErrorKind::NotFound)
}

/// Reads the text of a file; `name` is what errors call it.
pub fn parse(text: &str, name: &str) -> Result<File, SettingError> {
    // A file of comments alone holds no document.
    if text.lines().all(|line| line.trim_start().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(File::default());
    }
    serde_saphyr::from_str(text).map_err(|error| place::explain(text, name, &error))
}

/// A section whose keys are all commented out reads as null, and means nothing set.
fn or_default<'de, D, T>(source: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(source)?.unwrap_or_default())
}

fn duration<'de, D: Deserializer<'de>>(source: D) -> Result<Option<Duration>, D::Error> {
    let text = Option::<String>::deserialize(source)?;
    text.map(|text| parse_duration(&text).map_err(de::Error::custom)).transpose()
}

fn address<'de, D: Deserializer<'de>>(source: D) -> Result<Option<String>, D::Error> {
    let text = Option::<String>::deserialize(source)?;
    text.map(|text| parse_address(&text).map_err(de::Error::custom)).transpose()
}

fn ws_url<'de, D: Deserializer<'de>>(source: D) -> Result<Option<String>, D::Error> {
    let text = Option::<String>::deserialize(source)?;
    text.map(|text| parse_ws_url(&text).map_err(de::Error::custom)).transpose()
}

/// The text of a list that can be read.
fn addresses<'de, D: Deserializer<'de>>(source: D) -> Result<Option<String>, D::Error> {
    let text = Option::<String>::deserialize(source)?;
    text.map(|text| parse_addresses(&text).map(|_| text).map_err(de::Error::custom)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret as _;

    /// The file of the quick start, as it stands there.
    const QUICK_START: &str = "\
database:
  host: localhost
  port: 3306
  user: root
  password: root123
  dbname: pubsub

redis:
  addr: localhost:6379
  password: \"\"
  db: 0

etcd:
  endpoints:
    - localhost:2379

server:
  id: controller-1
  port: 50051

room:
  default_max_users: 100
  cache_ttl: 300s
";

    #[test]
    fn the_quick_start_file_is_read_whole() {
        let file = parse(QUICK_START, "config.yaml").unwrap();
        let database = file.database.unwrap();
        assert_eq!((database.host.as_deref(), database.port), (Some("localhost"), Some(3306)));
        assert_eq!(database.password.unwrap().expose_secret(), "root123");
        assert_eq!(file.redis.unwrap().db, Some(0));
        assert_eq!(file.etcd.unwrap().endpoints.unwrap(), ["localhost:2379"]);
        assert_eq!((file.server.id.as_deref(), file.server.port), (Some("controller-1"), Some(50051)));
        assert_eq!(file.room.default_max_users, Some(100));
        assert_eq!(file.room.cache_ttl, Some(Duration::from_secs(300)));
    }

    #[test]
    fn a_password_is_not_shown() {
        let shown = format!("{:?}", parse(QUICK_START, "config.yaml").unwrap());
        assert!(!shown.contains("root123"), "{shown}");
    }

    #[test]
    fn nothing_set_is_well() {
        for text in
            ["", "# all commented out\n", "room:\n#  max_rooms: 5\nconnect:\n  limits:\n", "---\n{}\n"]
        {
            let file = parse(text, "config.yaml").unwrap_or_else(|error| panic!("{text:?}: {error}"));
            assert_eq!(file.room.max_rooms, None);
        }
    }

    #[test]
    fn a_named_file_that_is_not_there_is_an_error_and_an_unnamed_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let error = load(Some(&folder.path().join("none.yaml")), false).unwrap_err().to_string();
        assert!(error.starts_with("--config = ") && error.contains("none.yaml"), "{error}");
        assert!(load(None, false).is_ok());
    }

    #[test]
    fn a_named_file_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("other.yaml");
        std::fs::write(&path, "connect: {shards: 3, controller_address: 'localhost:5'}").unwrap();
        assert_eq!(load(Some(&path), false).unwrap().connect.shards, Some(3));
        std::fs::write(&path, vec![b'#'; 2 * 1024 * 1024]).unwrap();
        assert!(load(Some(&path), false).unwrap_err().remedy.contains("at most"));
    }
}
