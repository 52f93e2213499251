//! Sockets over the real kernel.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use trireme_runtime::net::{ListenOptions, TcpListener, TcpStream};
use trireme_runtime::*;

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn listen() -> TcpListener {
    TcpListener::bind(any_port(), &ListenOptions::default()).unwrap()
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = listen();
    let client = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (server, peer) = listener.accept().await.unwrap();
    assert_eq!(peer, client.local_addr().unwrap());
    (client, server)
}

/// Bytes that tell their position.
fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len)
        .map(|n| (((n + seed) * 2_654_435_761_usize) >> 13) as u8)
        .collect()
}

async fn echo(stream: TcpStream) {
    loop {
        let received = stream.recv().await.unwrap();
        if received.is_empty() {
            return;
        }
        stream
            .send_all(vec![Bytes::copy_from_slice(&received)])
            .await
            .unwrap();
    }
}

async fn recv_len(stream: &TcpStream, len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < len {
        let received = stream.recv().await.unwrap();
        assert!(
            !received.is_empty(),
            "closed after {} of {len} bytes",
            bytes.len()
        );
        bytes.extend_from_slice(&received);
    }
    bytes
}

#[test]
fn small_messages_come_back() {
    block_on(async {
        let (client, server) = pair().await;
        spawn(echo(server)).detach();
        for n in 0..1000usize {
            let message = pattern(1 + n % 200, n);
            client
                .send_all(vec![Bytes::from(message.clone())])
                .await
                .unwrap();
            assert_eq!(recv_len(&client, message.len()).await, message);
        }
    });
}

#[test]
fn large_frames_come_back_by_both_ways_of_receiving() {
    const LEN: usize = 16 << 20;
    block_on(async {
        let (client, server) = pair().await;
        spawn(echo(server)).detach();
        let message = Bytes::from(pattern(LEN, 1));
        for direct in [true, false] {
            let sender = spawn({
                let (client, message) = (client.clone(), message.clone());
                // In pieces, so that gathered and partial sends are covered.
                let pieces: Vec<Bytes> = (0..LEN)
                    .step_by(100_000)
                    .map(|at| message.slice(at..LEN.min(at + 100_000)))
                    .collect();
                async move { client.send_all(pieces).await.unwrap() }
            });
            if direct {
                let (result, buf) = client
                    .recv_exact_into(AlignedBuf::with_capacity(LEN), 0, LEN)
                    .await;
                result.unwrap();
                assert!(buf[..] == message[..]);
            } else {
                assert!(recv_len(&client, LEN).await == message);
            }
            sender.await;
        }
    });
}

#[test]
fn more_pieces_than_one_call_takes() {
    block_on(async {
        let (client, server) = pair().await;
        let pieces: Vec<Bytes> = (0..3000u32)
            .map(|n| Bytes::copy_from_slice(&n.to_be_bytes()))
            .collect();
        let expected: Vec<u8> = pieces.concat();
        client.send_all(pieces).await.unwrap();
        assert_eq!(recv_len(&server, expected.len()).await, expected);
        client
            .send_all(vec![Bytes::new(), Bytes::new()])
            .await
            .unwrap();
    });
}

#[test]
#[should_panic(expected = "is not in the buffer")]
fn a_direct_receive_stays_inside_its_buffer() {
    block_on(async {
        let (_client, server) = pair().await;
        let small = Vec::with_capacity(10);
        let len = small.capacity() + 1;
        drop(server.recv_exact_into(small, 0, len).await);
    })
}

#[test]
fn half_a_frame_then_the_rest_straight_into_its_buffer() {
    block_on(async {
        let (client, server) = pair().await;
        let message = pattern(200_000, 5);
        client
            .send_all(vec![Bytes::copy_from_slice(&message[..1000])])
            .await
            .unwrap();
        let head = recv_len(&server, 1000).await;
        let mut buf = AlignedBuf::with_capacity(message.len());
        buf.extend_from_slice(&head);
        let rest = Bytes::copy_from_slice(&message[1000..]);
        let sender = spawn(async move {
            sleep(Duration::from_millis(2)).await;
            client.send_all(vec![rest]).await.unwrap();
            client
        });
        let (result, buf) = server.recv_exact_into(buf, 1000, message.len()).await;
        result.unwrap();
        assert!(buf[..] == message[..]);
        let client = sender.await;
        // The peer ends in the middle of the next frame.
        client
            .send_all(vec![Bytes::from_static(b"abc")])
            .await
            .unwrap();
        drop(client);
        let (result, buf) = server.recv_exact_into(Vec::with_capacity(10), 0, 10).await;
        assert_eq!(
            result.unwrap_err().kind(),
            std::io::ErrorKind::UnexpectedEof
        );
        assert_eq!(buf, b"abc");
    });
}

#[test]
fn a_receive_that_was_given_up_keeps_its_bytes_for_the_next() {
    block_on(async {
        let (client, server) = pair().await;
        for direct in [false, true] {
            assert!(
                timeout(Duration::from_millis(2), server.recv())
                    .await
                    .is_err()
            );
            let message = pattern(3000, 7);
            client
                .send_all(vec![Bytes::from(message.clone())])
                .await
                .unwrap();
            if direct {
                let (result, buf) = server
                    .recv_exact_into(Vec::with_capacity(100), 0, 100)
                    .await;
                result.unwrap();
                assert_eq!(buf, message[..100]);
                assert_eq!(recv_len(&server, 2900).await, message[100..]);
            } else {
                assert_eq!(recv_len(&server, 3000).await, message);
            }
        }
    });
}

#[test]
fn the_end_and_a_reset_are_told_apart() {
    block_on(async {
        let (client, server) = pair().await;
        client.shutdown(net::Shutdown::Write).unwrap();
        assert!(server.recv().await.unwrap().is_empty());
        server
            .send_all(vec![Bytes::from_static(b"still open")])
            .await
            .unwrap();
        assert_eq!(recv_len(&client, 10).await, b"still open");
        drop(client);
        let error = loop {
            if let Err(error) = server
                .send_all(vec![Bytes::from_static(b"to nobody")])
                .await
            {
                break error;
            }
        };
        assert!(
            matches!(
                error.kind(),
                std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe
            ),
            "{error}"
        );
        assert!(
            TcpStream::connect("127.0.0.1:1".parse().unwrap())
                .await
                .is_err()
        );
    });
}

#[test]
fn close_ends_a_receive_of_another_task() {
    block_on(async {
        let (_client, server) = pair().await;
        let receiver = spawn({
            let server = server.clone();
            async move { server.recv().await.map(|received| received.is_empty()) }
        });
        sleep(Duration::from_millis(2)).await;
        server.close();
        assert!(matches!(receiver.await, Ok(true) | Err(_)));
        assert!(
            server
                .send_all(vec![Bytes::from_static(b"x")])
                .await
                .is_err()
        );
    });
}

#[test]
fn two_thousand_connections_at_once() {
    const COUNT: usize = 2000;
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, 8192, 8192).unwrap();
    block_on(async {
        let listener = Rc::new(listen());
        let addr = listener.local_addr().unwrap();
        let server = spawn({
            let listener = listener.clone();
            async move {
                for _ in 0..COUNT {
                    let (stream, _) = listener.accept().await.unwrap();
                    spawn(echo(stream)).detach();
                }
            }
        });
        let mut clients = Vec::new();
        for _ in 0..COUNT {
            clients.push(TcpStream::connect(addr).await.unwrap());
        }
        server.await;
        sleep(Duration::from_millis(1)).await;
        assert_eq!(
            stats().recv_buffers_in_use,
            0,
            "idle connections pin no buffer"
        );
        for round in 0..3usize {
            let tasks: Vec<_> = clients
                .iter()
                .enumerate()
                .map(|(n, client)| {
                    let client = client.clone();
                    spawn(async move {
                        let message = pattern(128, n + round);
                        client
                            .send_all(vec![Bytes::from(message.clone())])
                            .await
                            .unwrap();
                        assert_eq!(recv_len(&client, 128).await, message);
                    })
                })
                .collect();
            for task in tasks {
                task.await;
            }
        }
    });
}

#[test]
fn more_received_at_once_than_there_are_buffers() {
    let config = NodeConfig {
        recv_buffers: 4,
        recv_buffer_len: 4096,
        ..NodeConfig::default()
    };
    block_on_with(config, async {
        let mut held = Vec::new();
        let mut pairs = Vec::new();
        for _ in 0..20 {
            pairs.push(pair().await);
        }
        for (n, (client, _)) in pairs.iter().enumerate() {
            client
                .send_all(vec![Bytes::from(pattern(1000, n))])
                .await
                .unwrap();
        }
        for (_, server) in &pairs {
            held.push(server.recv().await.unwrap());
        }
        for (n, received) in held.iter().enumerate() {
            assert_eq!(received[..], pattern(1000, n));
        }
        let after = stats();
        assert_eq!(after.recv_buffers_in_use, 4);
        assert!(after.recv_buffers_exhausted > 0);
        drop(held);
        assert_eq!(stats().recv_buffers_in_use, 0);
        for (n, (client, server)) in pairs.iter().enumerate() {
            server
                .send_all(vec![Bytes::from(pattern(10_000, n))])
                .await
                .unwrap();
            assert_eq!(recv_len(client, 10_000).await, pattern(10_000, n));
        }
    })
    .unwrap();
}

#[test]
fn a_tiny_ring_takes_any_number_of_operations() {
    let config = NodeConfig {
        ring_entries: 4,
        ..NodeConfig::default()
    };
    block_on_with(config, async {
        let (client, server) = pair().await;
        spawn(echo(server)).detach();
        let others: Vec<_> = (0..300).map(|n| (n, spawn(pair()))).collect();
        let message = Bytes::from(pattern(5000, 2));
        client.send_all(vec![message.clone()]).await.unwrap();
        assert_eq!(recv_len(&client, 5000).await, message);
        let mut tasks = Vec::new();
        for (n, pair) in others {
            let (a, b) = pair.await;
            tasks.push(spawn(async move {
                let message = pattern(100, n);
                a.send_all(vec![Bytes::from(message.clone())])
                    .await
                    .unwrap();
                assert_eq!(recv_len(&b, 100).await, message);
            }));
        }
        for task in tasks {
            task.await;
        }
    })
    .unwrap();
}

#[test]
fn sendfile_to_a_slow_reader() {
    const LEN: usize = 24 << 20;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    std::fs::write(&path, pattern(LEN, 11)).unwrap();
    block_on(async {
        let (client, server) = pair().await;
        let file = fs::File::open(&path, fs::OpenOptions::READ).await.unwrap();
        assert!(file.is_resident(0, LEN as u64).unwrap());
        let sender = spawn(async move {
            server
                .sendfile(&file, 1000, (LEN - 2000) as u64)
                .await
                .unwrap();
            server
                .send_all(vec![Bytes::from_static(b"end")])
                .await
                .unwrap();
            let error = server
                .sendfile(&file, LEN as u64 - 10, 100)
                .await
                .unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
        });
        let expected = pattern(LEN, 11);
        let expected = &expected[1000..LEN - 1000];
        let mut at = 0;
        while at < expected.len() {
            if at % 7 == 0 {
                sleep(Duration::from_micros(300)).await;
            }
            let received = client.recv().await.unwrap();
            let part = received.len().min(expected.len() - at);
            assert!(
                received[..part] == expected[at..at + part],
                "difference after {at}"
            );
            at += part;
            if part < received.len() {
                assert_eq!(received[part..part + 3], *b"end");
            }
        }
        sender.await;
    });
}

#[test]
fn sends_of_two_tasks_do_not_mix() {
    const LEN: usize = 3 << 20;
    block_on(async {
        let (client, server) = pair().await;
        let senders: Vec<_> = [1u8, 2]
            .into_iter()
            .map(|byte| {
                let server = server.clone();
                spawn(async move {
                    server
                        .send_all(vec![Bytes::from(vec![byte; LEN])])
                        .await
                        .unwrap()
                })
            })
            .collect();
        let bytes = recv_len(&client, 2 * LEN).await;
        assert!(bytes[..LEN].iter().all(|b| *b == bytes[0]));
        assert!(bytes[LEN..].iter().all(|b| *b == 3 - bytes[0]));
        for sender in senders {
            sender.await;
        }
    });
}

#[test]
fn dropped_sends_and_receives_leave_their_memory_alone() {
    block_on(async {
        for round in 0..50usize {
            let (client, server) = pair().await;
            // A send that cannot finish, given up: its memory must stay until the kernel is done with it.
            let big = Bytes::from(vec![round as u8; 8 << 20]);
            assert!(
                timeout(Duration::from_micros(200), client.send_all(vec![big]))
                    .await
                    .is_err()
            );
            assert!(
                client
                    .send_all(vec![Bytes::from_static(b"x")])
                    .await
                    .is_err(),
                "a cut stream says so"
            );
            // A direct receive given up: what the kernel writes later must not land in reused memory.
            let buf = AlignedBuf::with_capacity(64 << 20);
            assert!(
                timeout(
                    Duration::from_micros(200),
                    server.recv_exact_into(buf, 0, 64 << 20)
                )
                .await
                .is_err()
            );
            let reused: Vec<Vec<u8>> = (0..8).map(|_| vec![0xAA; 1 << 20]).collect();
            sleep(Duration::from_micros(500)).await;
            assert!(reused.iter().flatten().all(|byte| *byte == 0xAA));
            assert!(server.recv().await.is_err(), "bytes were lost");
        }
        sleep(Duration::from_millis(20)).await;
        let after = stats();
        assert_eq!((after.ops_orphaned, after.recv_buffers_in_use), (0, 0));
    });
}

#[test]
fn a_listener_that_nobody_asks_holds_back() {
    block_on(async {
        let listener = listen();
        let addr = listener.local_addr().unwrap();
        let mut clients = vec![TcpStream::connect(addr).await.unwrap()];
        let mut servers = vec![listener.accept().await.unwrap().0];
        for _ in 0..300 {
            clients.push(TcpStream::connect(addr).await.unwrap());
        }
        for _ in 0..300 {
            servers.push(listener.accept().await.unwrap().0);
        }
        for (n, server) in servers.iter().enumerate() {
            server
                .send_all(vec![Bytes::from(pattern(10, n))])
                .await
                .unwrap();
        }
        for (n, client) in clients.iter().enumerate() {
            let peer = servers
                .iter()
                .position(|s| s.peer_addr().unwrap() == client.local_addr().unwrap())
                .unwrap();
            assert_eq!(recv_len(client, 10).await, pattern(10, peer), "client {n}");
        }
    });
}
