//! Variables of the environment that the services read one by one.
//!
//! Owns: which of them mean nothing where all services are in one process.

use settings::SettingError;

/// Variables that fit several services, or one of several nodes, and what to use instead.
const AMBIGUOUS: [(&str, &str); 7] = [
    ("GRPC_PORT", "server.port, connect.grpc_port, push.grpc_port"),
    ("METRICS_PORT", "server.metrics_port, connect.metrics_port, push.metrics_port"),
    ("HTTP_PORT", "connect.http_port"),
    ("NODE_ID", "connect.node_id"),
    ("NODE_ADDR", "connect.node_addr"),
    ("PUBLIC_WS_URL", "connect.public_ws_url"),
    ("CONTROLLER_ADDRESS", "server.port"),
];

/// Refuses what would have to be guessed.
pub(crate) fn refuse_ambiguous() -> Result<(), SettingError> {
    refuse(|name| std::env::var(name).ok())
}

fn refuse(variable: impl Fn(&str) -> Option<String>) -> Result<(), SettingError> {
    for (name, keys) in AMBIGUOUS {
        let Some(value) = variable(name).filter(|value| !value.is_empty()) else { continue };
        let remedy = match settings::parse_port(&value) {
            Err(reason) if value.starts_with("tcp://") => reason,
            _ => format!(
                "ringcast runs controller, push manager and nodes in one process, so it cannot tell whom this is \
                 for: unset it, and set {keys} in a file that --config names"
            ),
        };
        return Err(SettingError::new(name, value, remedy));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_several_services_is_refused_by_its_name() {
        for (name, _) in AMBIGUOUS {
            let error = refuse(|asked| (asked == name).then(|| "50051".to_owned())).unwrap_err();
            assert!(error.to_string().starts_with(&format!("{name} = 50051: ")), "{error}");
            assert!(error.remedy.contains("--config"), "{error}");
        }
    }

    #[test]
    fn what_fits_one_is_not() {
        let one = ["CONTROLLER_ID", "MANAGER_ID", "ROOM_MAX_USERS", "BIND_ADDR"];
        assert_eq!(refuse(|asked| one.contains(&asked).then(|| "5".to_owned())), Ok(()));
        assert_eq!(refuse(|_| Some(String::new())), Ok(()), "an empty variable is not set");
    }

    #[test]
    fn a_kubernetes_service_link_is_called_by_its_name() {
        let link = |asked: &str| (asked == "GRPC_PORT").then(|| "tcp://10.43.0.7:50051".to_owned());
        assert!(refuse(link).unwrap_err().remedy.contains("enableServiceLinks: false"));
    }
}
