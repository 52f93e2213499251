//! What the measured broker itself spent: CPU from /proc, syncs from its metrics page.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, Result};

/// CPU and syncs of a broker, up to now.
#[derive(Clone, Copy, Default, Debug)]
pub struct Spent {
    pub cpu_seconds: f64,
    /// Groups that were made durable; `None` where the broker does not say.
    pub syncs: Option<f64>,
}

/// A broker process on this machine.
pub struct Server {
    pid: Option<u32>,
    admin: Option<String>,
}

impl Server {
    /// `pid` as given, or the process that listens at `bootstrap`, if it is ours to see. `admin` is Trireme's admin address.
    pub fn find(pid: Option<u32>, bootstrap: &str, admin: Option<String>) -> Server {
        let pid = pid.or_else(|| listener(bootstrap));
        if pid.is_none() {
            eprintln!(
                "note: no process found that listens at {bootstrap}; give --server-pid to see its CPU time"
            );
        }
        Server { pid, admin }
    }

    pub fn spent(&self) -> Spent {
        Spent {
            cpu_seconds: self
                .pid
                .and_then(|pid| cpu_seconds(pid).ok())
                .unwrap_or(f64::NAN),
            syncs: self
                .admin
                .as_deref()
                .and_then(|admin| commit_groups(admin).ok()),
        }
    }
}

/// User and system time of a process in seconds.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after = stat.rsplit_once(')').context("unreadable stat")?.1;
    let field = |n: usize| -> Result<f64> {
        Ok(after
            .split_whitespace()
            .nth(n)
            .context("short stat")?
            .parse()?)
    };
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("no clock tick")?;
    Ok((field(11)? + field(12)?) / ticks as f64)
}

/// Busy seconds of the whole machine: flushes burn in kernel threads that belong to no broker.
pub fn machine_cpu_seconds() -> f64 {
    let read = || -> Option<f64> {
        let stat = fs::read_to_string("/proc/stat").ok()?;
        let fields: Vec<f64> = stat
            .lines()
            .next()?
            .split_whitespace()
            .skip(1)
            .filter_map(|f| f.parse().ok())
            .collect();
        // user nice system idle iowait irq softirq steal
        Some((fields[0] + fields[1] + fields[2] + fields[5] + fields[6]) / 100.0)
    };
    read().unwrap_or(f64::NAN)
}

fn listener(address: &str) -> Option<u32> {
    let address: SocketAddr = address.to_socket_addrs().ok()?.next()?;
    let port = format!(":{:04X}", address.port());
    let mut inodes = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        for line in fs::read_to_string(table).ok()?.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if fields.len() > 9 && fields[1].ends_with(&port) && fields[3] == "0A" {
                inodes.push(format!("socket:[{}]", fields[9]));
            }
        }
    }
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        let Ok(files) = fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        let ours = |fd: fs::DirEntry| {
            fs::read_link(fd.path())
                .is_ok_and(|l| inodes.iter().any(|i| l.as_os_str() == i.as_str()))
        };
        if files.flatten().any(ours) {
            return Some(pid);
        }
    }
    None
}

fn commit_groups(admin: &str) -> Result<f64> {
    let mut stream = TcpStream::connect(admin)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(
        stream,
        "GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"
    )?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    let values = page
        .lines()
        .filter(|l| l.starts_with("trireme_commit_groups_total"))
        .filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok());
    Ok(values.sum())
}
