//! Mail between real cores.

use std::rc::Rc;
use std::time::Duration;

use trireme_runtime::mail::MAIL_CREDITS;
use trireme_runtime::*;

fn node(cores: usize) -> NodeConfig {
    NodeConfig {
        pin: false,
        ..NodeConfig::with_cores(cores)
    }
}

#[test]
fn every_core_reaches_every_core_in_order() {
    const COUNT: u64 = 5000;
    let ports = PerCore::new(mesh::<u64>(3));
    run_node(node(3), move |core| {
        let port = Rc::new(ports.take(core));
        async move {
            let sender = spawn({
                let port = port.clone();
                async move {
                    for n in 0..COUNT {
                        for to in 0..3 {
                            while let Err(back) = port.send(to, n) {
                                assert_eq!(back, n);
                                port.send_credit(to).await;
                            }
                        }
                    }
                }
            });
            let mut next = [0; 3];
            while next.iter().sum::<u64>() < 3 * COUNT {
                let (from, n) = port.recv().await;
                assert_eq!(n, next[from], "core {core} from {from}");
                next[from] += 1;
            }
            sender.await;
        }
    })
    .unwrap();
}

#[test]
fn a_sleeping_core_is_woken_each_time() {
    const ROUNDS: u64 = 3000;
    let ports = PerCore::new(mesh::<u64>(2));
    run_node(node(2), move |core| {
        let port = ports.take(core);
        async move {
            for n in 0..ROUNDS {
                if core == 0 {
                    port.send(1, n).unwrap();
                    // Now and then let the other one fall asleep before the next message, and be asleep for its answer.
                    if n % 10 == 0 {
                        sleep(Duration::from_micros(n % 300)).await;
                    }
                    assert_eq!(port.recv().await, (1, n));
                } else {
                    assert_eq!(port.recv().await, (0, n));
                    port.send(0, n).unwrap();
                }
            }
        }
    })
    .unwrap();
}

#[test]
fn a_queue_is_bounded_and_credit_comes_back() {
    let ports = PerCore::new(mesh::<usize>(2));
    run_node(node(2), move |core| {
        let port = ports.take(core);
        async move {
            if core == 0 {
                for n in 0..MAIL_CREDITS {
                    port.send(1, n).unwrap();
                }
                assert_eq!(port.send(1, 7), Err(7), "the receiver has not begun");
                assert!(
                    timeout(Duration::from_millis(5), port.send_credit(1))
                        .await
                        .is_err()
                );
                port.send(0, 1).unwrap(); // its own queue is another one
                assert_eq!(port.recv().await, (0, 1));
                sleep(Duration::from_millis(1)).await;
                // The other core reads only now.
                let file = port.send_credit(1);
                file.await;
                port.send(1, MAIL_CREDITS).unwrap();
            } else {
                sleep(Duration::from_millis(50)).await;
                for n in 0..=MAIL_CREDITS {
                    assert_eq!(port.recv().await, (0, n));
                }
                assert!(port.try_recv().is_none());
            }
        }
    })
    .unwrap();
}

#[test]
fn a_core_gets_one_wake_for_a_turn_of_messages() {
    let ports = PerCore::new(mesh::<usize>(2));
    run_node(node(2), move |core| {
        let port = ports.take(core);
        async move {
            if core == 0 {
                port.recv().await;
                sleep(Duration::from_millis(20)).await; // so that the other one sleeps
                let before = stats();
                for n in 0..500 {
                    port.send(1, n).unwrap();
                }
                port.recv().await;
                let after = stats();
                assert_eq!(after.mail_sent - before.mail_sent, 500);
                assert!(after.wakes_sent - before.wakes_sent <= 1);
            } else {
                port.send(0, 0).unwrap();
                for n in 0..500 {
                    assert_eq!(port.recv().await, (0, n));
                }
                port.send(0, 0).unwrap();
            }
        }
    })
    .unwrap();
}

#[test]
fn calls_are_answered_by_every_core() {
    const CALLS: u64 = 3000;
    let services = PerCore::new(service::<u64, u64>(2));
    let done = PerCore::new(mesh::<()>(2));
    run_node(node(2), move |core| {
        let (service, done) = (services.take(core), done.take(core));
        async move {
            let server = spawn({
                let service = service.clone();
                async move {
                    let last = Rc::new(std::cell::Cell::new([0u64; 2]));
                    service
                        .serve(move |from, request| {
                            // The synchronous part sees the requests in order.
                            let mut seen = last.get();
                            assert_eq!(request, seen[from]);
                            seen[from] += 1;
                            last.set(seen);
                            async move {
                                if request % 100 == 0 {
                                    sleep(Duration::from_micros(50)).await;
                                }
                                request * 2
                            }
                        })
                        .await
                }
            });
            for to in 0..2 {
                // More than there are credits, all at once.
                let calls: Vec<_> = (0..CALLS).map(|n| service.call(to, n)).collect();
                assert_eq!(service.outstanding(to), CALLS as usize);
                for (n, call) in calls.into_iter().enumerate() {
                    if n % 7 == 3 {
                        drop(call); // gives up the reply only
                    } else {
                        assert_eq!(call.await, n as u64 * 2);
                    }
                }
                while service.outstanding(to) > 0 {
                    sleep(Duration::from_micros(100)).await;
                }
            }
            // Both serve until both are done.
            done.send(1 - core, ()).unwrap();
            done.recv().await;
            server.cancel().await;
        }
    })
    .unwrap();
}

#[test]
#[should_panic(expected = "core 1 is broken")]
fn a_panic_of_one_core_ends_the_node() {
    let _ = run_node(node(2), |core| async move {
        if core == 1 {
            panic!("core 1 is broken");
        }
        std::future::pending::<()>().await;
    });
}

#[test]
fn pinned_cores_know_who_they_are() {
    run_node(NodeConfig::with_cores(2), |core| async move {
        assert_eq!((core_id(), core_count()), (core, 2));
        let answer = run_blocking(|| 5).await;
        assert_eq!(answer, 5);
    })
    .unwrap();
}
