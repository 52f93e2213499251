//! The binary from outside: start, health, metrics, ApiVersions, stop, and every way to refuse a start.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the client's side is not the broker"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// Far more than anything here takes; a test that needs it has failed.
const PATIENCE: Duration = Duration::from_secs(120);

struct Broker {
    child: Child,
    log: Receiver<String>,
    kafka: SocketAddr,
    admin: SocketAddr,
}

fn command(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trireme"));
    command.env_clear().arg("--data-dir").arg(dir);
    command.args(["--kafka", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    command.args(["--cores", "2", "--log-format", "json"]);
    command
}

/// The value of a field in a line of the JSON log; enough for the lines that are looked for here.
fn field<'a>(line: &'a str, name: &str) -> &'a str {
    let key = format!("\"{name}\":\"");
    let start = line
        .find(&key)
        .unwrap_or_else(|| panic!("{name} in {line}"))
        + key.len();
    &line[start..start + line[start..].find('"').unwrap()]
}

impl Broker {
    fn start(mut command: Command) -> Broker {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (send, log) = channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let _ = send.send(line);
            }
        });
        let ready = wait_for(&log, "\"ready\"");
        let kafka = field(&ready, "kafka").parse().unwrap();
        let admin = field(&ready, "admin").parse().unwrap();
        Broker {
            child,
            log,
            kafka,
            admin,
        }
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.admin).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, signal).unwrap();
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_for(log: &Receiver<String>, text: &str) -> String {
    loop {
        let line = log
            .recv_timeout(PATIENCE)
            .unwrap_or_else(|_| panic!("no line with {text}"));
        if line.contains(text) {
            return line;
        }
    }
}

/// What a start that is refused says.
fn refused(command: &mut Command) -> (Output, String) {
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    let last = text.lines().last().unwrap_or_default().to_owned();
    (output, last)
}

#[test]
fn it_serves_and_stops() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let mut broker = Broker::start(command(dir.path()));
        assert!(broker.get("/healthz").starts_with("HTTP/1.1 200 "));
        let metrics = broker.get("/metrics");
        assert!(
            metrics.contains("trireme_commit_groups_total{core=\"1\"}")
                && metrics.ends_with("# EOF\n")
        );
        assert!(broker.get("/nowhere").starts_with("HTTP/1.1 404 "));
        let mut kafka = TcpStream::connect(broker.kafka).unwrap();
        // ApiVersions 0, correlation id 7, no client id.
        kafka
            .write_all(&[0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 7, 0xff, 0xff])
            .unwrap();
        let mut head = [0; 10];
        kafka.read_exact(&mut head).unwrap();
        assert_eq!(head[4..], [0, 0, 0, 7, 0, 0], "correlation id and no error");
        broker.signal(nix::sys::signal::SIGTERM);
        assert_eq!(broker.child.wait().unwrap().code(), Some(0));
        wait_for(&broker.log, "\"stopped\"");
    }
}

#[test]
fn it_reads_its_own_segments_through() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = command(dir.path());
    command.args(["--set", "engine.scrub_period=1s"]);
    let broker = Broker::start(command);
    let passed = |metrics: &str| {
        metrics.lines().any(|line| {
            let passes = line.strip_prefix("trireme_scrub_passes_total{core=\"0\"} ");
            passes.is_some_and(|passes| passes != "0")
        })
    };
    let mut metrics = broker.get("/metrics");
    while !passed(&metrics) {
        std::thread::sleep(Duration::from_millis(50));
        metrics = broker.get("/metrics");
    }
    assert!(
        metrics.contains("trireme_scrub_damaged{core=\"0\"} 0"),
        "{metrics}"
    );
    assert!(!metrics.contains("trireme_scrub_last_pass_timestamp_seconds{core=\"0\"} 0"));
}

#[test]
fn a_data_directory_is_for_one_broker() {
    let dir = tempfile::tempdir().unwrap();
    let _first = Broker::start(command(dir.path()));
    let (output, last) = refused(&mut command(dir.path()));
    assert_eq!(output.status.code(), Some(1));
    assert!(last.contains("is in use by another process"), "{last}");
}

#[test]
fn a_data_directory_is_of_one_node() {
    let dir = tempfile::tempdir().unwrap();
    let begin = ["--set", "kafka.node.id=0"];
    for given in [&begin[..], &[]] {
        let mut broker = Broker::start({
            let mut command = command(dir.path());
            command.args(given);
            command
        });
        let mut kafka = TcpStream::connect(broker.kafka).unwrap();
        // Metadata 1 of no topic, correlation id 7, no client id.
        kafka
            .write_all(&[0, 0, 0, 14, 0, 3, 0, 1, 0, 0, 0, 7, 0xff, 0xff, 0, 0, 0, 0])
            .unwrap();
        let mut head = [0; 16];
        kafka.read_exact(&mut head).unwrap();
        assert_eq!(head[8..], [0, 0, 0, 1, 0, 0, 0, 0], "one node, of id 0");
        broker.signal(nix::sys::signal::SIGTERM);
        assert_eq!(broker.child.wait().unwrap().code(), Some(0));
    }
    let (output, last) = refused(command(dir.path()).args(["--set", "kafka.node.id=1"]));
    assert_eq!(output.status.code(), Some(1));
    assert!(last.contains("kafka.node.id = 1, but"), "{last}");
    assert!(last.contains("is of node 0"), "{last}");
}

#[test]
fn an_address_is_for_one_broker() {
    let dir = tempfile::tempdir().unwrap();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    let (output, last) = refused(
        Command::new(env!("CARGO_BIN_EXE_trireme"))
            .env_clear()
            .env("TRIREME_DATA_DIR", dir.path())
            .args(["--kafka", &address, "--admin", "off"]),
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(
        last.contains(&format!("kafka.listen {address}: ")),
        "{last}"
    );
}

#[test]
fn a_damaged_data_directory_is_said_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("format"), [7; 4096]).unwrap();
    let (output, last) = refused(&mut command(dir.path()));
    assert_eq!(output.status.code(), Some(1));
    let name = dir.path().display().to_string();
    assert!(last.contains("ERROR") && last.contains(&name), "{last}");
}

#[test]
fn a_wrong_configuration_is_said_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let (output, last) = refused(command(dir.path()).args(["--set", "kafka.num.partitions=0"]));
    assert_eq!(output.status.code(), Some(78));
    assert_eq!(
        last,
        "trireme: --set: kafka.num.partitions = \"0\": Value must be at least 1"
    );
}

#[test]
fn listening_everywhere_advertises_the_host_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_trireme"));
    command.env_clear().arg("--data-dir").arg(dir.path());
    command.args([
        "--kafka",
        "0.0.0.0:0",
        "--admin",
        "127.0.0.1:0",
        "--log-format",
        "json",
        "--cores",
        "1",
    ]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut warned = false;
    for line in BufReader::new(child.stderr.take().unwrap())
        .lines()
        .map_while(Result::ok)
    {
        warned |= line.contains("clients are told to connect to this host's name");
        if line.contains("\"ready\"") {
            let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
            assert!(field(&line, "advertised").starts_with(&host), "{line}");
            break;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(warned);
}
