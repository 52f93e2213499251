//! Values as people write them. The error of a parser says what it expected.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

/// A name or address and a port, as it is told to clients: it need not be an address here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

impl std::fmt::Display for HostPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Longest name that DNS allows; it also fits a Kafka string.
const MAX_HOST_BYTES: usize = 253;

pub fn host_port(value: &str) -> Result<HostPort, String> {
    let expected = || "HOST:PORT, the port from 1 to 65535".to_owned();
    let (host, port) = value.rsplit_once(':').ok_or_else(expected)?;
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.strip_suffix(']').ok_or_else(expected)?,
        None if host.contains(':') => return Err(expected()),
        None => host,
    };
    let port = port
        .parse()
        .ok()
        .filter(|port| *port > 0)
        .ok_or_else(expected)?;
    let printable = host.bytes().all(|byte| byte.is_ascii_graphic());
    if host.is_empty() || host.len() > MAX_HOST_BYTES || !printable {
        return Err(expected());
    }
    Ok(HostPort {
        host: host.to_owned(),
        port,
    })
}

#[allow(
    clippy::disallowed_methods,
    reason = "a name is looked up once, before the runtime starts"
)]
pub fn address(value: &str) -> Result<SocketAddr, String> {
    let expected = "an address as HOST:PORT";
    if let Ok(address) = value.parse() {
        return Ok(address);
    }
    if !value.contains(':') {
        return Err(expected.into());
    }
    match value.to_socket_addrs() {
        Ok(mut addresses) => addresses.next().ok_or_else(|| expected.into()),
        Err(error) => Err(format!("{expected} ({error})")),
    }
}

pub fn boolean(value: &str) -> Result<bool, String> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("true or false".into()),
    }
}

const SIZE_UNITS: [(&str, u64); 8] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("B", 1),
];

/// Bytes: `1048576`, `64MiB`, `1GiB`.
pub fn size(value: &str, min: u64, max: u64) -> Result<u64, String> {
    let (number, unit) = SIZE_UNITS
        .iter()
        .find_map(|(suffix, unit)| Some((value.strip_suffix(suffix)?.trim_end(), *unit)))
        .unwrap_or((value, 1));
    let bytes = number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit));
    bytes
        .filter(|bytes| (min..=max).contains(bytes))
        .ok_or_else(|| {
            format!(
                "a size from {} to {}, as in 64MiB",
                show_size(min),
                show_size(max)
            )
        })
}

pub fn show_size(bytes: u64) -> String {
    let exact = SIZE_UNITS[..4]
        .iter()
        .rev()
        .find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit));
    match exact {
        Some((suffix, unit)) => format!("{}{suffix}", bytes / unit),
        None => bytes.to_string(),
    }
}

/// A time: `500ms`, `30s`, `10m`, `1h`, `7d`.
pub fn duration(value: &str, min: Duration, max: Duration) -> Result<Duration, String> {
    let units = [
        ("ms", 1),
        ("s", 1_000),
        ("m", 60_000),
        ("h", 3_600_000),
        ("d", 86_400_000),
    ];
    let millis = units
        .iter()
        .find_map(|(suffix, unit)| Some((value.strip_suffix(suffix)?.parse::<u64>().ok()?, *unit)))
        .and_then(|(number, unit): (u64, u64)| number.checked_mul(unit));
    millis
        .map(Duration::from_millis)
        .filter(|time| (min..=max).contains(time))
        .ok_or_else(|| {
            format!(
                "a time from {} to {}, as in 30s",
                show_duration(min),
                show_duration(max)
            )
        })
}

pub fn show_duration(time: Duration) -> String {
    let millis = time.as_millis();
    match millis {
        _ if millis > 0 && millis.is_multiple_of(86_400_000) => {
            format!("{}d", millis / 86_400_000)
        }
        _ if millis > 0 && millis.is_multiple_of(3_600_000) => format!("{}h", millis / 3_600_000),
        _ if millis > 0 && millis.is_multiple_of(60_000) => format!("{}m", millis / 60_000),
        _ if millis.is_multiple_of(1_000) => format!("{}s", millis / 1_000),
        _ => format!("{millis}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let parse = |value| size(value, 0, u64::MAX);
        assert_eq!(parse("0"), Ok(0));
        assert_eq!(parse("1048576"), Ok(1 << 20));
        assert_eq!(parse("64MiB"), Ok(64 << 20));
        assert_eq!(parse("64 MiB"), Ok(64 << 20));
        assert_eq!(parse("2GB"), Ok(2_000_000_000));
        for bad in [
            "",
            "MiB",
            "-1",
            "1.5GiB",
            "99999999999TiB",
            "1 furlong",
            "1mib",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(
            size("1KiB", 4096, 8192)
                .unwrap_err()
                .contains("4KiB to 8KiB")
        );
        for shown in ["64MiB", "1GiB", "1000", "0"] {
            assert_eq!(show_size(parse(shown).unwrap()), shown);
        }
    }

    #[test]
    fn durations() {
        let parse = |value| duration(value, Duration::ZERO, Duration::from_secs(86_400));
        for (value, millis) in [
            ("0s", 0),
            ("500ms", 500),
            ("30s", 30_000),
            ("10m", 600_000),
            ("23h", 82_800_000),
            ("1d", 86_400_000),
        ] {
            assert_eq!(parse(value), Ok(Duration::from_millis(millis)));
            assert_eq!(show_duration(Duration::from_millis(millis)), value);
        }
        for bad in ["", "s", "10", "-1s", "25h", "1.5s", "2d"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_and_ports() {
        let parsed = |value| host_port(value).map(|h| (h.host.clone(), h.port, h.to_string()));
        assert_eq!(
            parsed("broker.example:9092"),
            Ok(("broker.example".into(), 9092, "broker.example:9092".into()))
        );
        assert_eq!(parsed("[::1]:1"), Ok(("::1".into(), 1, "[::1]:1".into())));
        for bad in [
            "",
            "x",
            ":1",
            "x:0",
            "x:99999",
            "::1:5",
            "[::1:5",
            "a b:1",
            "x:",
            &format!("{}:1", "x".repeat(300)),
        ] {
            assert!(host_port(bad).is_err(), "{bad}");
        }
    }
}
