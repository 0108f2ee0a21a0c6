//! The members of etcd, and how one is asked: within a second, else another one is.
//!
//! Owns: a client for each member, which of them answered last, logins, certificates.
//! Must not: know what is asked. Talks to: etcd.
//!
//! Each member has a client of its own. A client for several members spreads requests over them, and a member that
//! is stopped, but whose connections stand, would go on getting its part of them.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Error, Identity, TlsOptions};
use secrecy::ExposeSecret as _;
use settings::{EtcdStore, SettingError};
use tokio::time::timeout;

/// How long one member may take to answer, the connection and the login counted in.
const ATTEMPT: Duration = Duration::from_secs(1);

/// Codes of gRPC that are etcd's answer, whichever member is asked: not found, already exists, permission denied,
/// resource exhausted, failed precondition, out of range.
const ANSWERS: [i32; 6] = [5, 6, 7, 8, 9, 11];

/// All members.
pub(crate) struct Members {
    slots: Vec<Slot>,
    options: ConnectOptions,
    /// The one that answered last: it is asked first.
    preferred: AtomicUsize,
}

struct Slot {
    endpoint: String,
    client: Mutex<Option<Client>>,
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// A member did not answer in time.
    #[error("etcd at {endpoint} does not answer within {} s", ATTEMPT.as_secs())]
    Silent { endpoint: String },
    /// A member answered with an error, or cannot be reached.
    #[error("etcd at {endpoint}: {}", reason(error))]
    Failed { endpoint: String, error: Error },
}

impl AskError {
    /// Whether it is etcd's word that something does not exist, such as a lease.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Failed { error: Error::GRpcStatus(status), .. } if status.code() as i32 == 5)
    }
}

impl Members {
    /// Connects to nobody yet.
    pub(crate) fn new(store: &EtcdStore) -> Result<Self, SettingError> {
        if store.endpoints.is_empty() {
            return Err(SettingError::new("ETCD_ENDPOINTS", "", "give host:port of etcd's members"));
        }
        let slot = |endpoint: &String| Slot { endpoint: endpoint.clone(), client: Mutex::new(None) };
        Ok(Self {
            slots: store.endpoints.iter().map(slot).collect(),
            options: options(store)?,
            preferred: AtomicUsize::new(fastrand::usize(..store.endpoints.len())),
        })
    }

    /// Asks the member that answered last, then each of the others, until one answers; says which did. An error
    /// that is etcd's own answer ends it.
    pub(crate) async fn ask<T, F, A>(&self, request: F) -> Result<(usize, T), AskError>
    where
        F: Fn(Client) -> A,
        A: Future<Output = Result<T, Error>>,
    {
        let first = self.preferred.load(Ordering::Relaxed);
        let mut turn = 0;
        loop {
            let member = (first + turn) % self.slots.len();
            turn += 1;
            match self.ask_one(member, &request).await {
                Ok(answer) => {
                    self.preferred.store(member, Ordering::Relaxed);
                    return Ok((member, answer));
                }
                Err(error) if turn == self.slots.len() || is_answer(&error) => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// Asks this member alone.
    pub(crate) async fn ask_one<T, F, A>(&self, member: usize, request: F) -> Result<T, AskError>
    where
        F: Fn(Client) -> A,
        A: Future<Output = Result<T, Error>>,
    {
        let slot = &self.slots[member];
        let endpoint = || slot.endpoint.clone();
        let asked = async { request(slot.client(&self.options).await?).await };
        let error = match timeout(ATTEMPT, asked).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => AskError::Failed { endpoint: endpoint(), error },
            Err(_) => AskError::Silent { endpoint: endpoint() },
        };
        if !is_answer(&error) {
            // A new connection logs in anew: it helps also where it is the login that is not valid any more.
            *slot.client.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        Err(error)
    }
}

impl Slot {
    /// The client, made where there is none. Only its login asks the member for anything.
    async fn client(&self, options: &ConnectOptions) -> Result<Client, Error> {
        let lock = || self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = lock().clone() {
            return Ok(client);
        }
        let client = Client::connect([&self.endpoint], Some(options.clone())).await?;
        *lock() = Some(client.clone());
        Ok(client)
    }
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.slots.iter().map(|slot| &slot.endpoint)).finish()
    }
}

fn is_answer(error: &AskError) -> bool {
    matches!(error, AskError::Failed { error: Error::GRpcStatus(status), .. }
        if ANSWERS.contains(&(status.code() as i32)))
}

/// An error without what is written around it, but with its causes.
fn reason(error: &Error) -> String {
    let mut text = match error {
        Error::GRpcStatus(status) => status.message().to_owned(),
        Error::TransportError(error) => error.to_string(),
        other => other.to_string(),
    };
    let mut cause = match error {
        Error::GRpcStatus(status) => std::error::Error::source(status),
        Error::TransportError(error) => std::error::Error::source(error),
        _ => None,
    };
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}

fn options(store: &EtcdStore) -> Result<ConnectOptions, SettingError> {
    // A member that has lost the others says so at once.
    let mut options = ConnectOptions::new()
        .with_connect_timeout(ATTEMPT)
        .with_require_leader(true)
        .with_auto_token_refresh(true);
    if let (Some(user), Some(password)) = (&store.user, &store.password) {
        options = options.with_user(user, password.expose_secret());
    }
    let is_asked_for = store.endpoints.iter().any(|endpoint| endpoint.starts_with("https://"));
    if !is_asked_for && store.ca.is_none() && store.certificate.is_none() {
        return Ok(options);
    }
    let mut tls = TlsOptions::new();
    tls = match &store.ca {
        Some(path) => tls.ca_certificate(Certificate::from_pem(pem("ETCD_CA_FILE", path, "CERTIFICATE")?)),
        None => tls.with_native_roots(),
    };
    if let Some((certificate, key)) = &store.certificate {
        let certificate = pem("ETCD_CERT_FILE", certificate, "CERTIFICATE")?;
        tls = tls.identity(Identity::from_pem(certificate, pem("ETCD_KEY_FILE", key, "PRIVATE KEY")?));
    }
    Ok(options.with_tls(tls))
}

/// A file that holds what `label` says, in PEM.
fn pem(setting: &str, path: &Path, label: &str) -> Result<String, SettingError> {
    let refused = |remedy: String| SettingError::new(setting, path.display(), remedy);
    let text = std::fs::read_to_string(path).map_err(|error| refused(format!("cannot be read: {error}")))?;
    let begins =
        |line: &str| line.starts_with("-----BEGIN ") && line.trim_end().ends_with(&format!("{label}-----"));
    match text.lines().any(begins) {
        true => Ok(text),
        false => Err(refused(format!("holds no PEM block `-----BEGIN {label}-----`: give a file that does"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(store: &EtcdStore) -> SettingError {
        Members::new(store).expect_err("it was taken")
    }

    fn store() -> EtcdStore {
        EtcdStore { endpoints: vec!["127.0.0.1:1".into()], ..EtcdStore::default() }
    }

    #[test]
    fn a_certificate_that_cannot_be_used_is_refused_at_the_start() {
        let folder = std::env::temp_dir();
        let missing = folder.join("ringcast-there-is-no-such-file.pem");
        let error = refused(&EtcdStore { ca: Some(missing.clone()), ..store() });
        assert!(error.key == "ETCD_CA_FILE" && error.remedy.contains("cannot be read"), "{error}");
        // A file that surely is there and is no certificate.
        let other = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let error = refused(&EtcdStore { ca: Some(other.clone()), ..store() });
        assert!(error.key == "ETCD_CA_FILE" && error.remedy.contains("PEM"), "{error}");
        let error = refused(&EtcdStore { certificate: Some((other.clone(), other)), ..store() });
        assert_eq!(error.key, "ETCD_CERT_FILE");
    }

    #[test]
    fn no_member_at_all_is_refused() {
        assert_eq!(refused(&EtcdStore::default()).key, "ETCD_ENDPOINTS");
    }

    #[tokio::test]
    async fn an_error_says_which_member_and_why() {
        let members = Members::new(&store()).unwrap();
        let error = members.ask(async |client| client.kv_client().get("key", None).await);
        let text = error.await.expect_err("nobody listens there").to_string();
        assert!(text.starts_with("etcd at 127.0.0.1:1: ") && text.contains("refused"), "{text}");
    }
}
