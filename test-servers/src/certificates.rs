//! Certificates for a test: an authority, and one certificate by it for 127.0.0.1 and localhost, made by openssl.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use crate::client;

/// Keys on an elliptic curve take milliseconds.
const LIMIT: Duration = Duration::from_secs(20);

const CONFIG: &str = "[req]
distinguished_name = name
prompt = no
[name]
CN = ringcast tests
[authority]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
[member]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = serverAuth,clientAuth
subjectAltName = DNS:localhost,IP:127.0.0.1
";

/// Files in PEM; they live as long as the servers that use them.
#[derive(Debug, Clone)]
pub struct Certificates {
    /// The authority's certificate.
    pub authority: PathBuf,
    /// A certificate for servers and for clients.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Certificates {
    /// Makes them in `folder`.
    pub(crate) fn make(folder: &Path) -> Result<Self> {
        std::fs::write(folder.join("openssl.cnf"), CONFIG)?;
        let request = |file: &str, section: &str, subject: &str, by: &[&str]| -> Result<()> {
            let mut openssl = client::command("openssl", "openssl")?;
            openssl
                .current_dir(folder)
                .args("req -x509 -config openssl.cnf -nodes -days 2 -sha256".split(' '));
            openssl.args("-newkey ec -pkeyopt ec_paramgen_curve:prime256v1".split(' '));
            openssl.args(["-extensions", section, "-subj", subject]).args(by);
            openssl.args(["-keyout", &format!("{file}.key"), "-out", &format!("{file}.pem")]);
            client::run(&mut openssl, "", LIMIT).map(drop)
        };
        request("authority", "authority", "/CN=authority of ringcast's tests", &[])?;
        let by = ["-CA", "authority.pem", "-CAkey", "authority.key"];
        request("member", "member", "/CN=localhost", &by)?;
        let file = |name: &str| folder.join(name);
        Ok(Self {
            authority: file("authority.pem"),
            certificate: file("member.pem"),
            key: file("member.key"),
        })
    }
}
