//! What one message through the runtime costs: an echo server on one core, its CPU time per message.
//!
//! `cargo run --release -p trireme-runtime --example echo -- serve 127.0.0.1:23000` runs the server alone (for strace);
//! `… -- clients 127.0.0.1:23000 [connections] [bytes] [seconds]` are clients for it or any other echo server;
//! `… -- bench [connections] [bytes] [seconds]` runs it with clients on another core and prints its CPU per message.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use trireme_runtime::net::{ListenOptions, TcpListener, TcpStream};
use trireme_runtime::*;

async fn echo(stream: TcpStream) {
    loop {
        match stream.recv().await {
            Ok(received) if !received.is_empty() => {
                let bytes = Bytes::copy_from_slice(&received);
                drop(received);
                if stream
                    .send_all(net::SendBufs::from_iter([bytes]))
                    .await
                    .is_err()
                {
                    return;
                }
            }
            _ => return,
        }
    }
}

async fn serve(addr: SocketAddr) {
    let listener = TcpListener::bind(addr, &ListenOptions::default()).expect("the address is free");
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            spawn(echo(stream)).detach();
        }
    }
}

async fn client(addr: SocketAddr, len: usize, until: Instant) -> u64 {
    let stream = TcpStream::connect(addr).await.expect("the server listens");
    let message = Bytes::from(vec![7; len]);
    let mut messages = 0;
    while now() < until {
        if stream.send_all(vec![message.clone()]).await.is_err() {
            return messages;
        }
        let mut left = len;
        while left > 0 {
            left -= match stream.recv().await {
                Ok(received) if !received.is_empty() => received.len(),
                _ => return messages,
            };
        }
        messages += 1;
    }
    messages
}

async fn clients(addr: SocketAddr, connections: usize, len: usize, time: Duration) -> u64 {
    let until = now() + time;
    let clients: Vec<_> = (0..connections)
        .map(|_| spawn(client(addr, len, until)))
        .collect();
    let mut messages = 0;
    for client in clients {
        messages += client.await;
    }
    messages
}

/// CPU time of the calling thread, the kernel's part included.
fn thread_cpu() -> Duration {
    use nix::sys::resource::{UsageWho, getrusage};
    let usage = getrusage(UsageWho::RUSAGE_THREAD).expect("always there");
    let us = |time: nix::sys::time::TimeVal| time.tv_sec() * 1_000_000 + time.tv_usec();
    Duration::from_micros((us(usage.user_time()) + us(usage.system_time())) as u64)
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: usize| {
        args.get(at)
            .map_or(default, |text| text.parse().expect("a number"))
    };
    match args.first().map(String::as_str) {
        Some("serve") => {
            let addr = args
                .get(1)
                .map_or("127.0.0.1:23000", String::as_str)
                .parse()
                .expect("an address");
            run_node(NodeConfig::with_cores(1), move |_| serve(addr)).expect("a ring");
        }
        Some("clients") => {
            let addr = args
                .get(1)
                .map_or("127.0.0.1:23000", String::as_str)
                .parse()
                .expect("an address");
            let (connections, len, seconds) = (number(2, 50), number(3, 128), number(4, 3));
            let messages = block_on(clients(
                addr,
                connections,
                len,
                Duration::from_secs(seconds as u64),
            ));
            println!("{messages} messages");
        }
        _ => {
            let (connections, len, seconds) = (number(1, 50), number(2, 128), number(3, 3));
            let addr: SocketAddr = "127.0.0.1:23001".parse().expect("an address");
            let ports = PerCore::new(mesh::<u64>(2));
            run_node(NodeConfig::with_cores(2), move |core| {
                let port = ports.take(core);
                async move {
                    if core == 0 {
                        spawn(serve(addr)).detach();
                        port.send(1, 0).expect("room");
                        sleep(Duration::from_millis(300)).await; // connections are made
                        let (before, cpu) = (stats(), thread_cpu());
                        let (_, messages) = port.recv().await;
                        let (after, cpu) = (stats(), thread_cpu() - cpu);
                        let per = |a: u64, b: u64| (a - b) as f64 / messages as f64;
                        println!(
                            "{connections} connections, {len} bytes: {messages} messages, {:.2} µs CPU each, {:.3} turns, \
                             {:.3} enters, {:.2} submissions, {:.2} completions",
                            cpu.as_secs_f64() * 1e6 / messages as f64,
                            per(after.turns, before.turns),
                            per(after.enters, before.enters),
                            per(after.submissions, before.submissions),
                            per(after.completions, before.completions),
                        );
                    } else {
                        port.recv().await;
                        let time = Duration::from_millis(300) + Duration::from_secs(seconds as u64);
                        let messages = clients(addr, connections, len, time).await;
                        port.send(0, messages).expect("room");
                    }
                }
            })
            .expect("rings");
        }
    }
}
