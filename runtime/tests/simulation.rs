//! The simulator: the same seed is the same run, and a crash takes what was not durable.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use trireme_runtime::fs::{File, OpenOptions};
use trireme_runtime::net::{ListenOptions, TcpListener, TcpStream};
use trireme_runtime::sim::{NodeId, Simulation};
use trireme_runtime::*;

const SEEDS: std::ops::Range<u64> = 0..60;

/// Two nodes that talk, write and crash; returns the trace and what was seen.
fn busy_run(seed: u64) -> (u64, Vec<u64>) {
    let mut sim = Simulation::new(seed);
    let seen = Rc::new(RefCell::new(Vec::new()));
    let log = seen.clone();
    let server = sim.node(2, move |core| {
        let log = log.clone();
        async move {
            let addr: SocketAddr = "0.0.0.0:7000".parse().unwrap();
            let listener = TcpListener::bind(addr, &ListenOptions::default()).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let log = log.clone();
                spawn(async move {
                    loop {
                        match stream.recv().await {
                            Ok(received) if !received.is_empty() => {
                                log.borrow_mut().push(
                                    received.len() as u64 ^ (core as u64) << 32 ^ random_u64(),
                                );
                                let bytes = Bytes::copy_from_slice(&received);
                                if stream.send_all(vec![bytes]).await.is_err() {
                                    return;
                                }
                            }
                            _ => return,
                        }
                    }
                })
                .detach();
            }
        }
    });
    let client = sim.node(1, move |_| async move {
        let addr = SocketAddr::new(Simulation::node_ip(server), 7000);
        let tasks: Vec<_> = (0..5u8)
            .map(|n| {
                spawn(async move {
                    let Ok(stream) = TcpStream::connect(addr).await else {
                        return;
                    };
                    for round in 0..20usize {
                        let message = vec![n; 1 + round * 37];
                        if stream
                            .send_all(vec![Bytes::from(message.clone())])
                            .await
                            .is_err()
                        {
                            return;
                        }
                        let (result, back) = stream
                            .recv_exact_into(Vec::with_capacity(1000), 0, message.len())
                            .await;
                        if result.is_err() {
                            return;
                        }
                        assert_eq!(back, message);
                        sleep(Duration::from_micros(500)).await;
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await;
        }
    });
    sim.run_for(Duration::from_millis(10));
    if seed.is_multiple_of(2) {
        sim.crash(server);
    }
    sim.run_until_finished(client);
    assert!(!sim.is_running(client));
    (sim.trace_hash(), seen.take())
}

#[test]
fn the_same_seed_is_the_same_run() {
    let mut hashes = BTreeSet::new();
    for seed in 0..20 {
        let run = busy_run(seed);
        assert!(!run.1.is_empty());
        assert_eq!(run, busy_run(seed), "seed {seed}");
        hashes.insert(run.0);
    }
    assert_eq!(hashes.len(), 20, "other seeds are other runs");
}

#[test]
fn ready_tasks_run_in_any_order() {
    let mut orders = BTreeSet::new();
    for seed in SEEDS {
        let mut sim = Simulation::new(seed);
        let order = Rc::new(RefCell::new(Vec::new()));
        let log = order.clone();
        let node = sim.node(1, move |_| {
            let log = log.clone();
            async move {
                let tasks: Vec<_> = (0..3)
                    .map(|n| {
                        let log = log.clone();
                        spawn(async move { log.borrow_mut().push(n) })
                    })
                    .collect();
                for task in tasks {
                    task.await;
                }
            }
        });
        assert!(sim.run_until_finished(node));
        orders.insert(order.take());
    }
    assert_eq!(orders.len(), 6);
}

#[test]
fn virtual_time_costs_none() {
    let mut sim = Simulation::new(1);
    let node = sim.node(1, |_| async {
        let begun = (now(), unix_ms());
        sleep(Duration::from_secs(86_400)).await;
        assert!(begun.0.elapsed() >= Duration::from_secs(86_400));
        assert!(unix_ms() - begun.1 >= 86_400_000);
        assert_eq!(
            timeout(Duration::from_secs(1), std::future::pending::<()>()).await,
            Err(Elapsed)
        );
        assert_eq!(run_blocking(|| 3).await, 3);
    });
    assert!(sim.run_until_finished(node));
}

/// Runs `before` on a node until it says that it is there, cuts the power, runs `after` on what is left.
fn cut<A, B>(
    seed: u64,
    before: impl Fn(Rc<Cell<bool>>) -> A + 'static,
    after: impl Fn() -> B + 'static,
) where
    A: Future<Output = ()> + 'static,
    B: Future<Output = ()> + 'static,
{
    let mut sim = Simulation::new(seed);
    let reached = Rc::new(Cell::new(false));
    let flag = reached.clone();
    let node = sim.node(1, move |_| {
        let before = before(flag.clone());
        async move {
            before.await;
            std::future::pending::<()>().await;
        }
    });
    assert!(sim.run_until(|| reached.get()));
    sim.crash(node);
    assert!(!sim.is_running(node));
    sim.restart(node, move |_| after());
    assert!(sim.run_until_finished(node), "seed {seed}");
}

async fn durable_file(path: &str, options: OpenOptions) -> File {
    let file = File::open(path, options).await.unwrap();
    fs::sync_dir("/").await.unwrap();
    file
}

#[test]
fn what_was_made_durable_survives() {
    for seed in SEEDS {
        cut(
            seed,
            |reached| async move {
                fs::create_dir_all("/a/b").await.unwrap();
                for dir in ["/", "/a"] {
                    fs::sync_dir(dir).await.unwrap();
                }
                let file = File::open("/a/b/log", OpenOptions::CREATE.direct())
                    .await
                    .unwrap();
                fs::sync_dir("/a/b").await.unwrap();
                let mut buf = AlignedBuf::zeroed(8192);
                buf.fill(7);
                file.write_durable_at(buf, 4096).await.0.unwrap();
                let other = File::open("/a/b/other", OpenOptions::CREATE).await.unwrap();
                other.write_all_at(vec![5; 3000], 0).await.0.unwrap();
                other.sync_data().await.unwrap();
                fs::replace_file("/a/b/whole", vec![1; 100]).await.unwrap();
                fs::replace_file("/a/b/whole", vec![2; 2000]).await.unwrap();
                reached.set(true);
            },
            || async {
                let log = fs::read_file("/a/b/log").await.unwrap();
                assert_eq!(log.len(), 4096 + 8192);
                assert!(log[..4096].iter().all(|b| *b == 0) && log[4096..].iter().all(|b| *b == 7));
                assert_eq!(fs::read_file("/a/b/other").await.unwrap(), [5; 3000]);
                assert_eq!(fs::read_file("/a/b/whole").await.unwrap(), [2; 2000]);
            },
        );
    }
}

#[test]
fn what_was_not_may_be_lost_kept_or_torn() {
    let outcomes = Rc::new(RefCell::new(BTreeSet::new()));
    for seed in SEEDS {
        let outcomes = outcomes.clone();
        cut(
            seed,
            |reached| async move {
                let file = durable_file("/data", OpenOptions::CREATE).await;
                file.write_durable_at(vec![1; 2048], 0).await.0.unwrap();
                file.write_all_at(vec![2; 2048], 0).await.0.unwrap();
                reached.set(true);
            },
            move || {
                let outcomes = outcomes.clone();
                async move {
                    let data = fs::read_file("/data").await.unwrap();
                    assert_eq!(data.len(), 2048);
                    let kept: Vec<bool> =
                        data.chunks(512).map(|sector| sector == [2; 512]).collect();
                    for (sector, kept) in data.chunks(512).zip(&kept) {
                        assert!(*kept || sector == [1; 512], "a sector is whole");
                    }
                    outcomes.borrow_mut().insert(kept);
                }
            },
        );
    }
    let outcomes = outcomes.take();
    assert!(outcomes.contains(&vec![true; 4]) && outcomes.contains(&vec![false; 4]));
    assert!(outcomes.len() > 4, "and torn ones: {outcomes:?}");
}

#[test]
fn names_and_sizes_without_their_sync_may_be_lost() {
    let outcomes = Rc::new(RefCell::new(BTreeSet::new()));
    for seed in SEEDS {
        let outcomes = outcomes.clone();
        cut(
            seed,
            |reached| async move {
                durable_file("/sized", OpenOptions::CREATE)
                    .await
                    .allocate(0, 4096)
                    .await
                    .unwrap();
                let old = durable_file("/old", OpenOptions::CREATE).await;
                old.write_durable_at(vec![9; 10], 0).await.0.unwrap();
                fs::rename("/old", "/new").await.unwrap();
                // Its data is durable, its name is not.
                let created = File::open("/created", OpenOptions::CREATE).await.unwrap();
                created.write_durable_at(vec![3; 10], 0).await.0.unwrap();
                reached.set(true);
            },
            move || {
                let outcomes = outcomes.clone();
                async move {
                    let (old, new) = (
                        fs::exists("/old").await.unwrap(),
                        fs::exists("/new").await.unwrap(),
                    );
                    assert!(old != new, "a rename is atomic");
                    assert_eq!(
                        fs::read_file(if old { "/old" } else { "/new" })
                            .await
                            .unwrap(),
                        [9; 10]
                    );
                    let created = fs::exists("/created").await.unwrap();
                    assert!(!created || new, "names are kept in order");
                    let sized = fs::metadata("/sized").await.unwrap().size;
                    outcomes.borrow_mut().insert((new, created, sized));
                }
            },
        );
    }
    let outcomes = outcomes.take();
    let all: BTreeSet<_> = [(false, false), (true, false), (true, true)]
        .into_iter()
        .flat_map(|(new, created)| [(new, created, 0), (new, created, 4096)])
        .collect();
    assert_eq!(outcomes, all);
}

#[test]
fn a_write_under_way_may_be_torn() {
    let outcomes = Rc::new(RefCell::new(BTreeSet::new()));
    for seed in 0..1500 {
        let mut sim = Simulation::new(seed);
        let node = sim.node(1, |_| async {
            let file = durable_file("/log", OpenOptions::CREATE.direct()).await;
            file.write_durable_at(AlignedBuf::zeroed(4096), 0)
                .await
                .0
                .unwrap();
            let mut buf = AlignedBuf::zeroed(4096);
            buf.fill(1);
            file.write_durable_at(buf, 0).await.0.unwrap();
        });
        sim.run_for(Duration::from_micros(seed % 100 * 30));
        sim.crash(node);
        let outcomes = outcomes.clone();
        sim.restart(node, move |_| {
            let outcomes = outcomes.clone();
            async move {
                if let Ok(log) = fs::read_file("/log").await {
                    outcomes
                        .borrow_mut()
                        .insert(log.chunks(512).map(|sector| sector[0]).sum::<u8>());
                }
            }
        });
        assert!(sim.run_until_finished(node));
    }
    let outcomes = outcomes.take();
    assert!(
        outcomes.contains(&0) && outcomes.contains(&8) && outcomes.len() > 3,
        "{outcomes:?}"
    );
}

#[test]
fn a_kill_keeps_what_was_written() {
    for seed in SEEDS {
        let mut sim = Simulation::new(seed);
        let reached = Rc::new(Cell::new(false));
        let flag = reached.clone();
        let node = sim.node(1, move |_| {
            let flag = flag.clone();
            async move {
                let file = File::open("/data", OpenOptions::CREATE).await.unwrap();
                assert!(file.lock_exclusive().unwrap());
                file.write_all_at(vec![4; 5000], 0).await.0.unwrap();
                flag.set(true);
                std::future::pending::<()>().await;
            }
        });
        assert!(sim.run_until(|| reached.get()));
        sim.kill(node);
        sim.restart(node, |_| async {
            assert_eq!(fs::read_file("/data").await.unwrap(), [4; 5000]);
            let file = File::open("/data", OpenOptions::READ_WRITE).await.unwrap();
            assert!(
                file.lock_exclusive().unwrap(),
                "the lock went with its process"
            );
        });
        assert!(sim.run_until_finished(node));
    }
}

#[test]
fn abort_ends_the_node_and_nothing_else() {
    let mut sim = Simulation::new(5);
    let after = Rc::new(Cell::new(false));
    let flag = after.clone();
    let broken = sim.node(2, move |core| {
        let flag = flag.clone();
        async move {
            sleep(Duration::from_millis(1)).await;
            if core == 0 {
                abort("as the test wants it");
            }
            sleep(Duration::from_secs(1)).await;
            flag.set(true);
        }
    });
    let fine = sim.node(1, |_| async { sleep(Duration::from_secs(2)).await });
    assert!(sim.run_until_finished(fine));
    assert!(!sim.is_running(broken));
    assert_eq!(sim.last_abort().as_deref(), Some("as the test wants it"));
    assert!(!after.get());
}

#[test]
fn a_crash_resets_the_peers_connections() {
    for seed in SEEDS {
        let mut sim = Simulation::new(seed);
        let connected = Rc::new(Cell::new(false));
        let flag = connected.clone();
        let server = sim.node(1, move |_| {
            let flag = flag.clone();
            async move {
                let listener =
                    TcpListener::bind("0.0.0.0:1".parse().unwrap(), &ListenOptions::default())
                        .unwrap();
                let _stream = listener.accept().await.unwrap();
                flag.set(true);
                std::future::pending::<()>().await;
            }
        });
        let client = sim.node(1, move |_| async move {
            let addr = SocketAddr::new(Simulation::node_ip(server), 1);
            while TcpStream::connect(addr).await.is_err() {
                sleep(Duration::from_millis(1)).await; // not up yet
            }
            let stream = TcpStream::connect(addr).await.unwrap();
            assert!(stream.recv().await.is_err());
            assert!(
                stream
                    .send_all(vec![Bytes::from_static(b"x")])
                    .await
                    .is_err()
            );
            assert!(TcpStream::connect(addr).await.is_err());
        });
        assert!(sim.run_until(|| connected.get()));
        sim.run_for(Duration::from_millis(20));
        sim.crash(server);
        assert!(sim.run_until_finished(client), "seed {seed}");
        assert_eq!(server, NodeId(0));
    }
}

#[test]
fn mail_and_services_work_between_simulated_cores() {
    for seed in SEEDS {
        let mut sim = Simulation::new(seed);
        let services = PerCore::new(service::<u64, u64>(3));
        let done = PerCore::new(mesh::<()>(3));
        let node = sim.node(3, move |core| {
            let (service, done) = (services.take(core), done.take(core));
            async move {
                let server = spawn({
                    let service = service.clone();
                    async move {
                        service
                            .serve(|from, n| async move { n + from as u64 })
                            .await
                    }
                });
                for to in 0..3 {
                    let calls: Vec<_> = (0..50).map(|n| service.call(to, n)).collect();
                    for (n, call) in calls.into_iter().enumerate() {
                        assert_eq!(call.await, (n + core) as u64);
                    }
                }
                for to in 0..3 {
                    done.send(to, ()).unwrap();
                }
                for _ in 0..3 {
                    done.recv().await;
                }
                drop(server);
            }
        });
        assert!(sim.run_until_finished(node), "seed {seed}");
    }
}

#[test]
fn large_transfers_and_sendfile_between_nodes() {
    for seed in 0..5 {
        let mut sim = Simulation::new(seed);
        let server = sim.node(1, |_| async {
            let listener =
                TcpListener::bind("0.0.0.0:1".parse().unwrap(), &ListenOptions::default()).unwrap();
            let file = File::open("/file", OpenOptions::CREATE).await.unwrap();
            file.write_all_at((0..300_000u32).map(|n| n as u8).collect::<Vec<u8>>(), 0)
                .await
                .0
                .unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            stream.sendfile(&file, 256, 256_000).await.unwrap();
            let (result, buf) = stream
                .recv_exact_into(AlignedBuf::with_capacity(500_000), 0, 500_000)
                .await;
            result.unwrap();
            assert!(buf.iter().all(|b| *b == 9));
            assert!(stream.recv().await.unwrap().is_empty());
        });
        sim.node(1, move |_| async move {
            let addr = SocketAddr::new(Simulation::node_ip(server), 1);
            let stream = loop {
                match TcpStream::connect(addr).await {
                    Ok(stream) => break stream,
                    Err(_) => sleep(Duration::from_millis(1)).await,
                }
            };
            let mut received = Vec::new();
            while received.len() < 256_000 {
                received.extend_from_slice(&stream.recv().await.unwrap());
            }
            assert!(received.iter().enumerate().all(|(n, b)| *b == n as u8));
            stream
                .send_all(vec![Bytes::from(vec![9; 500_000])])
                .await
                .unwrap();
        });
        assert!(sim.run_until_finished(server), "seed {seed}");
    }
}

#[test]
fn a_node_that_holds_signals_is_asked_and_any_other_one_ended() {
    let mut sim = Simulation::new(7);
    let asked = Rc::new(Cell::new(0));
    let main = |asked: Rc<Cell<u32>>, holds: bool| {
        move |_| {
            let asked = asked.clone();
            async move {
                if holds {
                    signal::hold();
                }
                sleep(Duration::from_secs(1)).await;
                signal::terminated().await;
                asked.set(asked.get() + 1);
                signal::terminated().await;
                asked.set(asked.get() + 1);
            }
        }
    };
    let node = sim.node(1, main(asked.clone(), true));
    sim.run_for(Duration::from_millis(1));
    sim.terminate(node);
    sim.run_for(Duration::from_secs(2));
    assert_eq!(asked.get(), 1, "it waits until it is asked for");
    sim.terminate(node);
    assert!(sim.run_until_finished(node));
    assert_eq!(asked.get(), 2);
    sim.restart(node, main(asked.clone(), false));
    sim.run_for(Duration::from_millis(1));
    sim.terminate(node);
    assert!(!sim.is_running(node));
}
