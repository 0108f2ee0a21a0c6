//! How the store is opened: the first connection, the tables, and what is said where that does not go well.
//!
//! Owns: the settings' meaning for the driver, the migrations, which failure ends the start and which is waited out.
//! Must not: show a password.

use std::fmt::Display;
use std::io::ErrorKind;
use std::time::Duration;

use prometheus::IntCounter;
use secrecy::ExposeSecret as _;
use settings::{MysqlStore, SettingError};
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlDatabaseError, MySqlSslMode};
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::time::timeout;

use super::MysqlRooms;
use super::statements::{Count, Statement as _};

/// The tables.
pub(super) static MIGRATIONS: Migrator = Migrator {
    // A newer controller may have been here: what it has added is none of our business.
    ignore_missing: true,
    // The lock that the driver would take is none on MariaDB, which wants a time that is not negative.
    locking: false,
    ..sqlx::migrate!("migrations/mysql")
};

/// How long one try to connect may take.
const CONNECT: Duration = Duration::from_secs(5);

/// How long the tables may take to be made, another controller's turn included.
const MIGRATE: Duration = Duration::from_secs(60);

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(500);

const TLS_REMEDY: &str = "set it to `required` where the server has TLS, to `disabled` where it has none, and DB_CA_FILE \
                          to the authority that signed its certificate where that is to be verified";

/// Why it is not open.
#[derive(Debug)]
enum Unopened {
    /// The start is over: nothing but another setting helps.
    Setting(SettingError),
    /// The server may come.
    Away(String),
}

impl MysqlRooms {
    /// Opens the store, whose tables are made where they are not there. A server that cannot be reached is waited for,
    /// with one warning. Must be called in a runtime.
    pub(crate) async fn open(
        store: &MysqlStore,
        max_rooms: u64,
        errors: IntCounter,
    ) -> Result<Self, SettingError> {
        let options = options(store)?;
        let server = format!("{}:{}", store.host, store.port);
        let mut warned = false;
        let rooms = loop {
            match prepare(store, &options).await {
                Ok(rooms) => break rooms,
                Err(Unopened::Setting(error)) => return Err(error),
                Err(Unopened::Away(why)) => {
                    if !std::mem::replace(&mut warned, true) {
                        tracing::warn!(server, why, "MySQL cannot be reached: the start waits for it");
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        };
        if warned {
            tracing::info!(server, "MySQL is there");
        }
        Ok(Self::new(options, server, rooms, max_rooms, errors))
    }
}

fn options(store: &MysqlStore) -> Result<MySqlConnectOptions, SettingError> {
    let tls: MySqlSslMode = store.tls.parse().map_err(|_| {
        SettingError::new(
            "DB_TLS",
            &store.tls,
            "give disabled, preferred, required, verify_ca or verify_identity",
        )
    })?;
    let mut options = MySqlConnectOptions::new()
        .host(&store.host)
        .port(store.port)
        .username(&store.user)
        .database(&store.database)
        .ssl_mode(tls)
        .charset("utf8mb4");
    if let Some(password) = &store.password {
        options = options.password(password.expose_secret());
    }
    if let Some(ca) = &store.ca {
        options = options.ssl_ca(ca);
    }
    Ok(options)
}

/// Connects, makes the tables where they are not there, and counts the rooms.
async fn prepare(store: &MysqlStore, options: &MySqlConnectOptions) -> Result<u64, Unopened> {
    let connected = timeout(CONNECT, options.connect()).await;
    let mut connection = connected
        .map_err(|_| Unopened::Away("no answer in time".into()))?
        .map_err(|error| unopened(store, &error))?;
    let rooms = timeout(MIGRATE, async {
        migrate(store, &mut connection).await?;
        Count.run(&mut connection).await.map_err(|error| unopened(store, &error))
    });
    let rooms = rooms.await.map_err(|_| Unopened::Away("the tables were not made in time".into()))??;
    // The pool makes its own; that the server hears of the end is a courtesy.
    let _ = timeout(CONNECT, connection.close()).await;
    Ok(rooms)
}

/// Makes the tables, one controller at a time. Where all is there already, nothing is written: a user without the
/// right to make tables will do then.
async fn migrate(store: &MysqlStore, connection: &mut MySqlConnection) -> Result<(), Unopened> {
    if is_migrated(connection).await {
        return Ok(());
    }
    let lock = "SELECT GET_LOCK(CONCAT('ringcast ', MD5(DATABASE())), ?)";
    let lock = sqlx::query_scalar::<_, Option<i64>>(lock).bind(MIGRATE.as_secs());
    let locked = lock.fetch_one(&mut *connection).await.map_err(|error| unopened(store, &error))?;
    if locked != Some(1) {
        return Err(Unopened::Away("another controller is making the tables".into()));
    }
    // `run` does the same, but its future cannot go to another thread.
    let migrated = MIGRATIONS.run_direct(None, connection, false).await;
    // Otherwise the lock goes with the connection.
    let _ = sqlx::query("DO RELEASE_LOCK(CONCAT('ringcast ', MD5(DATABASE())))").execute(connection).await;
    migrated.map_err(|error| match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => unopened(store, &error),
        error => Unopened::Setting(SettingError::new(
            "DB_NAME",
            &store.database,
            format!(
                "its tables are not as this version left them ({error}): load control/schema.sql into it"
            ),
        )),
    })
}

/// Whether all migrations have been made. An error says no: making them shows what it is.
async fn is_migrated(connection: &mut MySqlConnection) -> bool {
    let done = sqlx::query_as("SELECT version, checksum FROM _sqlx_migrations WHERE success");
    let Ok(done) = done.fetch_all(connection).await else { return false };
    let done: Vec<(i64, Vec<u8>)> = done;
    MIGRATIONS.iter().all(|migration| {
        done.iter()
            .any(|(version, checksum)| *version == migration.version && *checksum == *migration.checksum)
    })
}

/// Tells what another setting would help from what time would.
fn unopened(store: &MysqlStore, error: &sqlx::Error) -> Unopened {
    let setting = |key: &str, value: &dyn Display, remedy: String| {
        Unopened::Setting(SettingError::new(key, value, remedy))
    };
    let number = match error {
        sqlx::Error::Database(said) => {
            said.try_downcast_ref::<MySqlDatabaseError>().map(MySqlDatabaseError::number)
        }
        // Without TLS a password may need RSA, which the driver has not; certificates that are not good are what
        // `InvalidData` is.
        sqlx::Error::Configuration(_) | sqlx::Error::Tls(_) => {
            return setting("DB_TLS", &store.tls, format!("{error}: {TLS_REMEDY}"));
        }
        sqlx::Error::Io(io) if io.kind() == ErrorKind::InvalidData => {
            return setting("DB_TLS", &store.tls, format!("{error}: {TLS_REMEDY}"));
        }
        sqlx::Error::Protocol(_) => {
            let remedy = "is MySQL there, and does the user log in by caching_sha2_password or \
                          mysql_native_password?";
            let host = format!("{}:{}", store.host, store.port);
            return setting("DB_HOST", &host, format!("{error}: {remedy}"));
        }
        _ => None,
    };
    match number {
        Some(1045 | 1130 | 1698) => setting(
            "DB_USER",
            &store.user,
            format!("{error}: check DB_PASSWORD, and that the user may come from this host"),
        ),
        // To whoever may not use it, the server does not say whether it is there.
        Some(1044) => setting(
            "DB_NAME",
            &store.database,
            format!(
                "{error}: make it where it is not there (CREATE DATABASE {0}), and grant the user SELECT, INSERT, \
                 UPDATE, DELETE and CREATE on {0}.*",
                store.database
            ),
        ),
        Some(1142 | 1227) => setting(
            "DB_USER",
            &store.user,
            format!(
                "{error}: grant it SELECT, INSERT, UPDATE, DELETE and CREATE on {}.*, or load control/schema.sql as \
                 somebody who may",
                store.database
            ),
        ),
        Some(1049) => setting(
            "DB_NAME",
            &store.database,
            format!("{error}: make it (CREATE DATABASE {}), or name another one", store.database),
        ),
        _ => Unopened::Away(error.to_string()),
    }
}
