//! Whether a service's listeners can be had, and who can reach them.
//!
//! Owns: the check of a port before it is bound for good, the warning about open ports.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use crate::SettingError;

/// How long a taken port is waited for. The kernel ends the io_uring requests of a process that was killed, and with
/// them closes its listeners, a moment after the process is gone: a supervisor that starts it again at once comes sooner.
const PATIENCE: Duration = Duration::from_secs(1);

/// Binds the address once, without SO_REUSEPORT, and lets it go again: with SO_REUSEPORT alone a second node
/// would silently share the port. `key` names the setting that the port came from. May take a second.
pub fn check_port_free(key: &str, address: SocketAddr) -> Result<(), SettingError> {
    let until = Instant::now() + PATIENCE;
    let error = loop {
        match TcpListener::bind(address) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < until => {
                std::thread::sleep(PATIENCE / 20);
            }
            Err(error) => break error,
        }
    };
    let remedy = match error.kind() {
        ErrorKind::AddrInUse => format!(
            "the port is taken: stop what listens on {address} (`ss -ltnp` shows it), or set another port"
        ),
        ErrorKind::PermissionDenied => {
            "ports below 1024 need root or CAP_NET_BIND_SERVICE: set another port".to_owned()
        }
        ErrorKind::AddrNotAvailable => format!("{} is no address of this machine", address.ip()),
        _ => format!("cannot listen on {address}: {error}"),
    };
    Err(SettingError::new(key, address.port(), remedy))
}

/// Warns, where gRPC and metrics listen beyond loopback, that anyone who reaches them can push.
pub fn warn_if_open(bind: IpAddr) {
    if !bind.is_loopback() {
        tracing::warn!(
            %bind,
            "gRPC and metrics listen beyond loopback, and the push API has no authentication: let nobody but your \
             own services reach these ports"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_names_key_value_and_remedy() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = check_port_free("HTTP_PORT", address).unwrap_err().to_string();
        assert!(error.starts_with(&format!("HTTP_PORT = {}: the port is taken", address.port())), "{error}");
        assert!(!error.contains('\n'));
    }

    #[test]
    fn a_port_that_is_let_go_in_time_is_free() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let holder = std::thread::spawn(move || {
            std::thread::sleep(PATIENCE / 4);
            drop(taken);
        });
        check_port_free("HTTP_PORT", address).unwrap();
        holder.join().unwrap();
    }

    #[test]
    fn a_free_port_is_free_again_after_the_check() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        check_port_free("HTTP_PORT", address).unwrap();
        check_port_free("HTTP_PORT", address).unwrap();
    }

    #[test]
    fn a_foreign_address_is_called_foreign() {
        let error = check_port_free("BIND_ADDR", "192.0.2.1:0".parse().unwrap()).unwrap_err();
        assert!(error.remedy.contains("no address of this machine"), "{error}");
    }
}
