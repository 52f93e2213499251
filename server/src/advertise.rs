//! Where Kafka clients are told to connect.

use std::net::SocketAddr;
use trireme::config::HostPort;

/// What is advertised, and whether the host's name had to be taken for it.
pub struct Advertised {
    pub to: HostPort,
    pub is_host_name: bool,
}

/// `bound` is the address as it was bound, with its real port. No client can connect to 0.0.0.0, so a host that listens
/// everywhere is known by its name.
pub fn advertised(given: Option<&HostPort>, bound: SocketAddr, host_name: &str) -> Advertised {
    match given {
        Some(given) => Advertised {
            to: given.clone(),
            is_host_name: false,
        },
        None if bound.ip().is_unspecified() => Advertised {
            to: HostPort {
                host: host_name.to_owned(),
                port: bound.port(),
            },
            is_host_name: true,
        },
        None => Advertised {
            to: HostPort {
                host: bound.ip().to_string(),
                port: bound.port(),
            },
            is_host_name: false,
        },
    }
}

/// This host's name; "localhost" if it has none that can be told.
pub fn host_name() -> String {
    let name = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok());
    name.filter(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_goes_first_and_a_host_that_listens_everywhere_is_known_by_its_name() {
        let given = HostPort {
            host: "b.example".into(),
            port: 1,
        };
        let show = |given, bound: &str| {
            let a = advertised(given, bound.parse().unwrap(), "boat");
            (a.to.to_string(), a.is_host_name)
        };
        assert_eq!(
            show(Some(&given), "0.0.0.0:9092"),
            ("b.example:1".into(), false)
        );
        assert_eq!(show(None, "0.0.0.0:9092"), ("boat:9092".into(), true));
        assert_eq!(show(None, "[::]:9092"), ("boat:9092".into(), true));
        assert_eq!(show(None, "10.0.0.7:9093"), ("10.0.0.7:9093".into(), false));
        assert_eq!(show(None, "[::1]:9093"), ("[::1]:9093".into(), false));
    }
}
