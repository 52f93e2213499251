//! Doors and connections over real sockets.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the client's side is not the broker"
)]

use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream as StdStream};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use trireme_net::*;
use trireme_runtime::fs::{File, OpenOptions};
use trireme_runtime::sync::CancelToken;
use trireme_runtime::{JoinHandle, block_on, run_blocking, sleep, spawn};

const MAX_FRAME: usize = 64 << 20;

struct Running {
    addr: SocketAddr,
    stop: CancelToken,
    memory: ReceiveMemory,
    counters: Arc<DoorCounters>,
    serving: JoinHandle<()>,
}

fn patient() -> Timeouts {
    Timeouts {
        drain: Duration::from_secs(5),
        ..Timeouts::default()
    }
}

/// A door that answers each frame with itself.
fn echo(limit: usize, memory_bytes: usize, timeouts: Timeouts) -> Running {
    start(limit, memory_bytes, timeouts, |connection| async {
        let (mut reader, mut writer) = connection.split();
        while let Ok(Some(frame)) = reader.read_frame(MAX_FRAME).await {
            let prefix = Bytes::copy_from_slice(&(frame.len() as u32).to_be_bytes());
            let answer = vec![Segment::Memory(prefix), Segment::Memory(frame)];
            if writer.write(answer).await.is_err() {
                return;
            }
        }
    })
}

fn start<F, Fut>(limit: usize, memory_bytes: usize, timeouts: Timeouts, serve: F) -> Running
where
    F: Fn(Connection) -> Fut + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let memory = ReceiveMemory::new(memory_bytes, MAX_FRAME);
    let counters = Arc::<DoorCounters>::default();
    let door = Door::bind(DoorConfig {
        addr: "127.0.0.1:0".parse().unwrap(),
        limit: ConnectionLimit::new(limit),
        timeouts,
        memory: memory.clone(),
        counters: counters.clone(),
    })
    .unwrap();
    let addr = door.local_addr().unwrap();
    let stop = CancelToken::new();
    let serving = spawn(door.serve(stop.clone(), serve));
    Running {
        addr,
        stop,
        memory,
        counters,
        serving,
    }
}

fn frame(body: &[u8]) -> Vec<u8> {
    let mut bytes = (body.len() as u32).to_be_bytes().to_vec();
    bytes.extend_from_slice(body);
    bytes
}

fn read_frame(stream: &mut StdStream) -> std::io::Result<Vec<u8>> {
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix)?;
    let mut body = vec![0; u32::from_be_bytes(prefix) as usize];
    stream.read_exact(&mut body)?;
    Ok(body)
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251 + seed) as u8).collect()
}

/// Waits for something that is bound to happen; a test that waits for ever has failed.
async fn until(mut what: impl FnMut() -> bool) {
    while !what() {
        sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn frames_of_every_size_come_back_in_order() {
    block_on(async {
        let door = echo(10, 1 << 30, patient());
        let addr = door.addr;
        run_blocking(move || {
            let mut stream = StdStream::connect(addr).unwrap();
            let sizes = [
                0,
                1,
                5,
                4096,
                65_531,
                65_532,
                65_536,
                65_537,
                100_000,
                1 << 20,
                20 << 20,
                3,
            ];
            let frames: Vec<_> = sizes
                .iter()
                .enumerate()
                .map(|(i, n)| pattern(*n, i))
                .collect();
            let mut writer = stream.try_clone().unwrap();
            let sent = frames.clone();
            let sending = std::thread::spawn(move || {
                for body in sent {
                    writer.write_all(&frame(&body)).unwrap();
                }
            });
            for body in frames {
                assert!(
                    read_frame(&mut stream).unwrap() == body,
                    "frame of {} bytes",
                    body.len()
                );
            }
            sending.join().unwrap();
            // Many small ones in one write, and one that dribbles.
            let many: Vec<u8> = (0..5000).flat_map(|i| frame(&pattern(i % 50, i))).collect();
            let mut writer = stream.try_clone().unwrap();
            let sending = std::thread::spawn(move || writer.write_all(&many).unwrap());
            for i in 0..5000 {
                assert_eq!(read_frame(&mut stream).unwrap(), pattern(i % 50, i));
            }
            sending.join().unwrap();
            for byte in frame(b"slowly") {
                stream.write_all(&[byte]).unwrap();
            }
            assert_eq!(read_frame(&mut stream).unwrap(), b"slowly");
        })
        .await;
        until(|| door.counters.open.get() == 0).await;
        assert_eq!(door.memory.used(), 0);
        assert_eq!(door.counters.frames.get(), 12 + 5000 + 1);
        door.stop.cancel();
        door.serving.await;
    });
}

#[test]
fn promises_cost_nothing_and_disturb_nobody() {
    block_on(async {
        let door = echo(5000, 1 << 20, patient());
        let addr = door.addr;
        let clients = run_blocking(move || {
            (0..500)
                .map(|_| {
                    let mut stream = StdStream::connect(addr).unwrap();
                    let mut half = (50u32 << 20).to_be_bytes().to_vec();
                    half.extend_from_slice(&[1; 10]);
                    stream.write_all(&half).unwrap();
                    stream
                })
                .collect::<Vec<_>>()
        })
        .await;
        until(|| door.memory.used() == 500 * 10).await;
        run_blocking(move || {
            let mut stream = StdStream::connect(addr).unwrap();
            for i in 0..100 {
                stream.write_all(&frame(&pattern(1000, i))).unwrap();
                assert_eq!(read_frame(&mut stream).unwrap(), pattern(1000, i));
            }
        })
        .await;
        drop(clients);
        until(|| door.counters.open.get() == 0).await;
        assert_eq!(door.memory.used(), 0);
    });
}

/// More unfinished frames than there is memory: they get finished one after the other.
#[test]
fn memory_that_is_used_up_by_unfinished_frames_is_no_deadlock() {
    const LIMIT: usize = 4 << 20;
    const FRAME: usize = 3 << 20;
    block_on(async {
        let door = echo(100, LIMIT, patient());
        let addr = door.addr;
        let highest = Rc::new(Cell::new(0));
        let watching = {
            let (highest, memory) = (highest.clone(), door.memory.clone());
            spawn(async move {
                loop {
                    highest.set(memory.used().max(highest.get()));
                    sleep(Duration::from_millis(1)).await;
                }
            })
        };
        run_blocking(move || {
            let mut streams: Vec<_> = (0..8).map(|_| StdStream::connect(addr).unwrap()).collect();
            let bytes = frame(&pattern(FRAME, 1));
            // All of them half way, then all to the end, each with a thread as nobody's end may wait for another's.
            let threads: Vec<_> = streams
                .drain(..)
                .map(|mut stream| {
                    let bytes = bytes.clone();
                    std::thread::spawn(move || {
                        stream.write_all(&bytes[..FRAME / 2]).unwrap();
                        stream.write_all(&bytes[FRAME / 2..]).unwrap();
                        assert!(read_frame(&mut stream).unwrap() == bytes[4..]);
                    })
                })
                .collect();
            threads.into_iter().for_each(|t| t.join().unwrap());
        })
        .await;
        until(|| door.counters.open.get() == 0).await;
        assert_eq!(door.memory.used(), 0);
        assert_eq!(door.counters.closed_memory.get(), 0);
        // The limit, a step or a buffer of each connection, and what the pass allows.
        let bound = LIMIT + 8 * limits::DIRECT_STEP_BYTES + 2 * FRAME;
        assert!(
            highest.get() <= bound,
            "{} of {bound} bytes were held",
            highest.get()
        );
        drop(watching);
    });
}

/// Who holds the memory and sends nothing goes, when others wait for it.
#[test]
fn a_stalled_holder_of_memory_is_closed_for_the_others() {
    block_on(async {
        let door = echo(100, 1 << 20, patient());
        let addr = door.addr;
        let holders = run_blocking(move || {
            let hold = |len| {
                let mut stream = StdStream::connect(addr).unwrap();
                stream
                    .write_all(&frame(&pattern(8 << 20, 0))[..len])
                    .unwrap();
                stream
            };
            [hold(3 << 20), hold(3 << 20)]
        })
        .await;
        until(|| door.memory.used() >= 1 << 20).await;
        run_blocking(move || {
            let mut stream = StdStream::connect(addr).unwrap();
            for i in 0..20 {
                stream.write_all(&frame(&pattern(100_000, i))).unwrap();
                assert!(read_frame(&mut stream).unwrap() == pattern(100_000, i));
            }
        })
        .await;
        assert!(door.counters.closed_memory.get() >= 1);
        drop(holders);
    });
}

#[test]
fn hostile_lengths_close_the_connection_and_nothing_else() {
    block_on(async {
        let door = echo(100, 1 << 30, patient());
        let addr = door.addr;
        run_blocking(move || {
            for length in [i32::MAX, i32::MIN, -1, MAX_FRAME as i32 + 1] {
                let mut stream = StdStream::connect(addr).unwrap();
                stream.write_all(&frame(b"good")).unwrap();
                stream.write_all(&length.to_be_bytes()).unwrap();
                assert_eq!(read_frame(&mut stream).unwrap(), b"good");
                assert_eq!(
                    stream.read(&mut [0; 10]).unwrap(),
                    0,
                    "closed without an answer"
                );
            }
        })
        .await;
        until(|| door.counters.open.get() == 0).await;
        assert_eq!(door.counters.bad_frames.get(), 4);
        assert_eq!(door.memory.used(), 0);
    });
}

#[test]
fn beyond_the_limit_a_connection_is_closed_at_once() {
    block_on(async {
        let door = echo(2, 1 << 20, patient());
        let addr = door.addr;
        run_blocking(move || {
            let mut kept: Vec<_> = (0..2).map(|_| StdStream::connect(addr).unwrap()).collect();
            for stream in &mut kept {
                stream.write_all(&frame(b"in")).unwrap();
                assert_eq!(read_frame(stream).unwrap(), b"in");
            }
            let mut third = StdStream::connect(addr).unwrap();
            let closed = third.read(&mut [0; 1]);
            assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
            kept.pop();
            // As soon as that is noticed there is room again.
            loop {
                let mut stream = StdStream::connect(addr).unwrap();
                let sent = stream.write_all(&frame(b"again"));
                if sent.is_ok() && read_frame(&mut stream).is_ok_and(|body| body == b"again") {
                    break;
                }
            }
        })
        .await;
        assert!(door.counters.refused.get() >= 1);
    });
}

#[test]
fn a_peer_that_does_not_read_is_closed_and_what_it_was_sent_is_let_go_of() {
    block_on(async {
        let timeouts = Timeouts {
            write: Duration::from_secs(1),
            ..patient()
        };
        let result = Rc::new(RefCell::new(None));
        let seen = result.clone();
        let door = start(10, 1 << 30, timeouts, move |connection| {
            let seen = seen.clone();
            async move {
                let (_reader, mut writer) = connection.split();
                let chunk = Bytes::from(vec![7; 1 << 20]);
                let error = loop {
                    if let Err(error) = writer.write(vec![chunk.clone().into()]).await {
                        break error;
                    }
                };
                *seen.borrow_mut() = Some(error.to_string());
            }
        });
        let addr = door.addr;
        let stream = run_blocking(move || StdStream::connect(addr).unwrap()).await;
        until(|| door.counters.open.get() == 0 && result.borrow().is_some()).await;
        assert_eq!(
            result.borrow().as_deref(),
            Some("closed: the peer does not read")
        );
        assert_eq!(door.counters.closed_stalled_reader.get(), 1);
        drop(stream);
    });
}

#[test]
fn half_a_frame_and_silence_time_out() {
    block_on(async {
        let timeouts = Timeouts {
            frame: Duration::from_secs(1),
            idle: Duration::from_secs(2),
            ..patient()
        };
        let door = echo(10, 1 << 30, timeouts);
        let addr = door.addr;
        run_blocking(move || {
            let mut half = StdStream::connect(addr).unwrap();
            half.write_all(&[0, 0, 1, 0, 9]).unwrap();
            let mut silent = StdStream::connect(addr).unwrap();
            assert!(matches!(half.read(&mut [0]), Ok(0) | Err(_)));
            assert!(matches!(silent.read(&mut [0]), Ok(0) | Err(_)));
        })
        .await;
        until(|| door.counters.open.get() == 0).await;
        assert_eq!(door.counters.closed_stalled_frame.get(), 1);
        assert_eq!(door.counters.closed_idle.get(), 1);
    });
}

#[test]
fn memory_and_file_ranges_leave_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("segment");
    let content = pattern(3 << 20, 5);
    std::fs::write(&path, &content).unwrap();
    block_on(async {
        let lease = Arc::new(());
        let held = lease.clone();
        let door = start(10, 1 << 30, patient(), move |connection| {
            let (path, held) = (path.clone(), held.clone());
            async move {
                let (_reader, mut writer) = connection.split();
                let file = File::open(&path, OpenOptions::READ).await.unwrap();
                let range = |position, len| {
                    Segment::File(FileRange {
                        file: file.share().unwrap(),
                        position,
                        len,
                        lease: Some(Box::new(held.clone())),
                    })
                };
                let answer = vec![
                    Segment::Memory(Bytes::from_static(b"head")),
                    range(10, 2 << 20),
                    Segment::Memory(Bytes::from_static(b"middle")),
                    Segment::Memory(Bytes::from_static(b"")),
                    range(0, 1),
                    Segment::Memory(Bytes::from(vec![3; 3 << 20])),
                ];
                writer.write(answer).await.unwrap();
                let error = writer.write(vec![range(3 << 20, 5)]).await.unwrap_err();
                assert!(matches!(error, WriteError::File(_)), "{error}");
            }
        });
        let addr = door.addr;
        run_blocking(move || {
            let mut stream = StdStream::connect(addr).unwrap();
            let mut got = Vec::new();
            stream.read_to_end(&mut got).unwrap();
            let mut expected = b"head".to_vec();
            expected.extend_from_slice(&content[10..10 + (2 << 20)]);
            expected.extend_from_slice(b"middle");
            expected.push(content[0]);
            expected.resize(expected.len() + (3 << 20), 3);
            assert!(got == expected);
        })
        .await;
        until(|| door.counters.open.get() == 0).await;
        assert_eq!(Arc::strong_count(&lease), 2, "leases are let go of");
    });
}

#[test]
fn a_stop_finishes_what_was_accepted_and_ends() {
    block_on(async {
        let gate = trireme_runtime::sync::Notify::new();
        let opened = gate.clone();
        let door = start(10, 1 << 30, patient(), move |connection| {
            let gate = opened.clone();
            async move {
                let (mut reader, mut writer) = connection.split();
                while let Ok(Some(frame)) = reader.read_frame(MAX_FRAME).await {
                    gate.notified().await;
                    let prefix = Bytes::copy_from_slice(&(frame.len() as u32).to_be_bytes());
                    writer
                        .write(vec![prefix.into(), frame.into()])
                        .await
                        .unwrap();
                }
            }
        });
        let addr = door.addr;
        let counters = door.counters.clone();
        let mut busy = run_blocking(move || {
            let mut stream = StdStream::connect(addr).unwrap();
            let two = [frame(b"one"), frame(b"two")].concat();
            stream.write_all(&two).unwrap();
            stream
        })
        .await;
        let idle = run_blocking(move || StdStream::connect(addr).unwrap()).await;
        until(|| counters.frames.get() == 1 && counters.open.get() == 2).await;
        door.stop.cancel();
        until(|| counters.open.get() == 1).await; // the idle one has gone
        drop(idle);
        gate.notify_one();
        until(|| counters.frames.get() == 2).await;
        gate.notify_one();
        door.serving.await;
        run_blocking(move || {
            assert_eq!(read_frame(&mut busy).unwrap(), b"one");
            assert_eq!(read_frame(&mut busy).unwrap(), b"two");
            assert!(matches!(busy.read(&mut [0]), Ok(0) | Err(_)));
            assert!(StdStream::connect(addr).is_err(), "nobody listens any more");
        })
        .await;
    });
}

#[test]
fn a_connection_that_does_not_finish_is_closed_at_the_end_of_the_drain() {
    block_on(async {
        let timeouts = Timeouts {
            drain: Duration::from_millis(50),
            ..patient()
        };
        let door = start(10, 1 << 30, timeouts, |connection| async move {
            let _connection = connection;
            std::future::pending().await
        });
        let addr = door.addr;
        let _stream = run_blocking(move || StdStream::connect(addr).unwrap()).await;
        until(|| door.counters.open.get() == 1).await;
        door.stop.cancel();
        door.serving.await;
        assert_eq!(door.counters.open.get(), 0);
        assert_eq!(door.counters.closed_shutdown.get(), 1);
    });
}

#[test]
fn thousands_of_connections_that_come_and_go() {
    block_on(async {
        let door = echo(5000, 64 << 20, patient());
        let addr = door.addr;
        run_blocking(move || {
            let mut streams: Vec<_> = (0..2000)
                .map(|_| StdStream::connect(addr).unwrap())
                .collect();
            for (i, stream) in streams.iter_mut().enumerate() {
                stream.write_all(&frame(&pattern(100, i))).unwrap();
            }
            for (i, stream) in streams.iter_mut().enumerate() {
                assert_eq!(read_frame(stream).unwrap(), pattern(100, i));
            }
        })
        .await;
        until(|| door.counters.open.get() == 0).await;
        assert_eq!(door.memory.used(), 0);
        assert_eq!(door.counters.accepted.get(), 2000);
    });
}
