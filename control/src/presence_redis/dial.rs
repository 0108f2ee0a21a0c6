//! How a connection is made: to one server, to the master that sentinels name, or to a Redis Cluster.
//!
//! Owns: which settings cannot work; that a connection is handed out only when its server knows the scripts.
//! Must not: wait, try again, or keep a connection (`connection` does).

use std::time::Duration;

use futures_util::future::join_all;
use redis::aio::{ConnectionLike as _, MultiplexedConnection};
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, Pipeline,
    RedisConnectionInfo, RedisError, RedisResult, TlsCertificates, TlsMode, Value,
};
use secrecy::ExposeSecret as _;
use settings::RedisStore;

use super::scripts;
use crate::presence_store::PresenceError;

/// How long a server may take to accept a connection.
const CONNECT_WITHIN: Duration = Duration::from_millis(500);

/// A connection; clones share it.
#[derive(Clone)]
pub(super) enum Connection {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Connection {
    /// Sends commands and returns an answer for each. To a single server they go as one pipeline, in their order; in
    /// a cluster all at once, and only those of one key keep their order.
    pub(super) async fn exchange(&mut self, commands: Vec<Cmd>) -> RedisResult<Vec<RedisResult<Value>>> {
        match self {
            _ if commands.is_empty() => Ok(Vec::new()),
            Self::Single(connection) => {
                let count = commands.len();
                let mut pipeline = Pipeline::with_capacity(count);
                for command in commands {
                    pipeline.add_command(command);
                }
                let answers = connection.req_packed_commands(&pipeline, 0, count).await?;
                Ok(answers.into_iter().map(Value::extract_error).collect())
            }
            Self::Cluster(connection) => {
                let answers = commands.into_iter().map(|command| {
                    let mut connection = connection.clone();
                    async move { connection.req_packed_command(&command).await.and_then(Value::extract_error) }
                });
                Ok(join_all(answers).await)
            }
        }
    }

    /// Makes the server know the scripts; in a cluster, those masters that can be reached.
    pub(super) async fn load_scripts(&mut self) -> RedisResult<()> {
        let answers = self.exchange(scripts::load().collect()).await?;
        match self {
            Self::Single(_) => answers.into_iter().collect::<RedisResult<Vec<Value>>>().map(drop),
            // A master that is away is no reason to leave the others; who misses a script loads them once more.
            Self::Cluster(_) => Ok(()),
        }
    }

    pub(super) fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }
}

/// Where to connect to.
pub(super) enum Dialer {
    Single(Client),
    Sentinels(Sentinels),
    Cluster(Box<ClusterClient>),
}

/// Sentinels, and the master that they are asked for.
pub(super) struct Sentinels {
    addresses: Vec<ConnectionAddr>,
    master: String,
    of_master: RedisConnectionInfo,
    certificates: Option<TlsCertificates>,
}

impl Dialer {
    /// Fails for settings that cannot work, whatever the servers do.
    pub(super) fn new(settings: &RedisStore, deadline: Duration) -> Result<Self, PresenceError> {
        if settings.cluster && settings.sentinel_master.is_some() {
            return Err(unusable("sentinels and a cluster are both set: give one of them"));
        }
        if settings.cluster && settings.db != 0 {
            return Err(unusable(&format!("a Redis Cluster has the database 0 only, not {}", settings.db)));
        }
        let certificates = certificates(settings)?;
        let addresses = settings.addresses.iter().map(|address| address_of(address, certificates.as_ref()));
        let addresses: Vec<ConnectionAddr> = addresses.collect::<Result<_, _>>()?;
        let mut identity = RedisConnectionInfo::default().set_db(i64::from(settings.db));
        if let Some(user) = &settings.user {
            identity = identity.set_username(user);
        }
        if let Some(password) = &settings.password {
            identity = identity.set_password(password.expose_secret());
        }
        let Some(first) = addresses.first() else {
            return Err(unusable("there is no address: give host:port"));
        };
        if let Some(master) = &settings.sentinel_master {
            let master = master.clone();
            return Ok(Self::Sentinels(Sentinels { addresses, master, of_master: identity, certificates }));
        }
        if settings.cluster {
            return cluster(&addresses, identity, certificates, deadline)
                .map(|client| Self::Cluster(Box::new(client)))
                .map_err(refused);
        }
        if addresses.len() > 1 {
            let several =
                "several addresses are given: name the sentinels' master, or set cluster, or give one";
            return Err(unusable(several));
        }
        let client = info(first, identity).and_then(Client::open).map_err(refused)?;
        Ok(Self::Single(client))
    }

    /// A connection to a server that takes scripts.
    pub(super) async fn dial(&self) -> RedisResult<Connection> {
        // Deadlines are those of `connection`, which also counts the time that a command waits to be sent.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_WITHIN))
            .set_response_timeout(None);
        let mut connection = match self {
            Self::Single(client) => {
                Connection::Single(client.get_multiplexed_async_connection_with_config(&config).await?)
            }
            Self::Sentinels(sentinels) => Connection::Single(sentinels.dial(&config).await?),
            Self::Cluster(client) => Connection::Cluster(client.get_async_connection().await?),
        };
        connection.load_scripts().await?;
        Ok(connection)
    }
}

impl Sentinels {
    async fn dial(&self, config: &AsyncConnectionConfig) -> RedisResult<MultiplexedConnection> {
        let anonymous = self.client(false)?.get_async_connection_with_config(config).await;
        match anonymous {
            // The settings have one password: sentinels that ask for one are given it too.
            Err(error) if error.code() == Some("NOAUTH") && self.of_master.password().is_some() => {
                self.client(true)?.get_async_connection_with_config(config).await
            }
            other => other,
        }
    }

    fn client(&self, log_in: bool) -> RedisResult<SentinelClient> {
        let addresses = self.addresses.iter().cloned();
        let mut builder = SentinelClientBuilder::new(addresses, &self.master, SentinelServerType::Master)?
            .set_client_to_redis_db(self.of_master.db());
        if let Some(user) = self.of_master.username() {
            builder = builder.set_client_to_redis_username(user);
        }
        if let Some(password) = self.of_master.password() {
            builder = builder.set_client_to_redis_password(password);
            if log_in {
                builder = builder.set_client_to_sentinel_password(password);
            }
        }
        if let Some(certificates) = &self.certificates {
            builder = builder
                .set_client_to_redis_tls_mode(TlsMode::Secure)
                .set_client_to_redis_certificates(certificates.clone());
        }
        builder.build()
    }
}

fn cluster(
    addresses: &[ConnectionAddr],
    identity: RedisConnectionInfo,
    certificates: Option<TlsCertificates>,
    deadline: Duration,
) -> RedisResult<ClusterClient> {
    let infos = addresses.iter().map(|address| info(address, identity.clone()));
    let mut builder = ClusterClientBuilder::new(infos.collect::<RedisResult<Vec<ConnectionInfo>>>()?)
        .connection_timeout(CONNECT_WITHIN)
        .response_timeout(deadline)
        .retries(4)
        .min_retry_wait(10)
        .max_retry_wait(100);
    if let Some(certificates) = certificates {
        builder = builder.tls(TlsMode::Secure).certs(certificates);
    }
    builder.build()
}

fn info(address: &ConnectionAddr, identity: RedisConnectionInfo) -> RedisResult<ConnectionInfo> {
    Ok(address.clone().into_connection_info()?.set_redis_settings(identity))
}

/// The certificates that servers are checked against; `None`: connections are not TLS.
fn certificates(settings: &RedisStore) -> Result<Option<TlsCertificates>, PresenceError> {
    if !settings.tls {
        return Ok(None);
    }
    let root_cert = match &settings.ca {
        None => None,
        Some(path) => {
            let read = std::fs::read(path);
            Some(read.map_err(|error| unusable(&format!("cannot read `{}`: {error}", path.display())))?)
        }
    };
    Ok(Some(TlsCertificates { client_tls: None, root_cert }))
}

fn address_of(text: &str, certificates: Option<&TlsCertificates>) -> Result<ConnectionAddr, PresenceError> {
    let malformed = || unusable(&format!("`{text}` is no address: give host:port"));
    let (host, port) = text.rsplit_once(':').ok_or_else(malformed)?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let port: u16 = port.parse().map_err(|_| malformed())?;
    if host.is_empty() {
        return Err(malformed());
    }
    let Some(certificates) = certificates else {
        return Ok(ConnectionAddr::Tcp(host.to_owned(), port));
    };
    let address = ConnectionAddr::TcpTls { host: host.to_owned(), port, insecure: false, tls_params: None };
    // A client takes the certificates apart and checks them.
    let client = Client::build_with_tls(address, certificates.clone()).map_err(refused)?;
    Ok(client.get_connection_info().addr().clone())
}

fn unusable(why: &str) -> PresenceError {
    PresenceError(format!("the settings of redis cannot work: {why}"))
}

fn refused(error: RedisError) -> PresenceError {
    unusable(&error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(settings: &RedisStore) -> String {
        Dialer::new(settings, Duration::from_secs(1)).err().unwrap().0
    }

    #[test]
    fn settings_that_cannot_work_are_named() {
        let at = |addresses: &[&str]| RedisStore {
            addresses: addresses.iter().map(|address| (*address).to_owned()).collect(),
            ..RedisStore::default()
        };
        assert!(refusal(&at(&[])).contains("host:port"));
        for address in ["localhost", ":6379", "localhost:redis", "localhost:70000"] {
            assert!(refusal(&at(&[address])).contains(address));
        }
        assert!(refusal(&at(&["a:1", "b:2"])).contains("several"));
        assert!(refusal(&RedisStore { cluster: true, db: 3, ..at(&["a:1"]) }).contains('3'));
        let both = RedisStore { cluster: true, sentinel_master: Some("m".into()), ..at(&["a:1"]) };
        assert!(refusal(&both).contains("sentinels"));
        let missing = RedisStore { tls: true, ca: Some("/no/such/ca.pem".into()), ..at(&["a:1"]) };
        assert!(refusal(&missing).contains("/no/such/ca.pem"));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n").unwrap();
        let broken = RedisStore { tls: true, ca: Some(file.path().to_owned()), ..at(&["a:1"]) };
        assert!(refusal(&broken).contains("certificate"));
    }

    #[test]
    fn an_address_may_be_of_the_sixth_version() {
        assert_eq!(address_of("[::1]:6379", None).unwrap(), ConnectionAddr::Tcp("::1".into(), 6379));
    }
}
