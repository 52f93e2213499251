//! Tasks, timers, shares, helper threads.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use trireme_runtime::*;

#[test]
fn a_future_that_is_not_static_runs_and_returns() {
    let text = String::from("hello");
    let len = block_on(async { text.len() });
    assert_eq!(len, 5);
}

#[test]
fn spawned_tasks_give_their_output() {
    let sum = block_on(async {
        let tasks: Vec<_> = (0..100u64).map(|n| spawn(async move { n })).collect();
        let mut sum = 0;
        for task in tasks {
            sum += task.await;
        }
        sum
    });
    assert_eq!(sum, 4950);
}

#[test]
fn dropping_a_handle_cancels_and_detaching_does_not() {
    block_on(async {
        let ran = Rc::new(Cell::new(0));
        let one = ran.clone();
        drop(spawn(async move { one.set(one.get() + 1) }));
        let ten = ran.clone();
        spawn(async move { ten.set(ten.get() + 10) }).detach();
        let kept = spawn(std::future::pending::<()>());
        assert_eq!(kept.cancel().await, None);
        sleep(Duration::from_millis(1)).await;
        assert_eq!(ran.get(), 10);
    });
}

#[test]
fn tasks_left_at_the_end_are_dropped_on_their_core() {
    struct Token(Rc<Cell<bool>>);
    impl Drop for Token {
        fn drop(&mut self) {
            // The core is still there: a destructor may use it.
            assert_eq!(core_id(), 0);
            self.0.set(true);
        }
    }
    let dropped = Rc::new(Cell::new(false));
    let token = Token(dropped.clone());
    block_on(async move {
        spawn(async move {
            let _token = token;
            std::future::pending::<()>().await;
        })
        .detach();
        yield_now().await;
    });
    assert!(dropped.get());
}

#[test]
fn timers_fire_in_order_and_not_early() {
    block_on(async {
        let order = Rc::new(RefCell::new(Vec::new()));
        let begun = now();
        let tasks: Vec<_> = [30, 10, 20, 0, 10]
            .into_iter()
            .map(|ms| {
                let order = order.clone();
                spawn(async move {
                    let wanted = Duration::from_millis(ms);
                    sleep(wanted).await;
                    assert!(begun.elapsed() >= wanted, "timer of {ms} ms fired early");
                    order.borrow_mut().push(ms);
                })
            })
            .collect();
        for task in tasks {
            task.await;
        }
        assert_eq!(*order.borrow(), [0, 10, 10, 20, 30]);
    });
}

#[test]
fn timeout_cuts_off_and_lets_through() {
    block_on(async {
        let cut = timeout(Duration::from_millis(1), std::future::pending::<()>()).await;
        assert_eq!(cut, Err(Elapsed));
        assert_eq!(timeout(Duration::from_secs(3600), async { 7 }).await, Ok(7));
        // A dropped timer is gone: nothing keeps the core for an hour.
    });
}

#[test]
fn clients_go_first_and_background_is_not_starved() {
    block_on(async {
        let order = Rc::new(RefCell::new(Vec::new()));
        let push = |name: &'static str| {
            let order = order.clone();
            async move { order.borrow_mut().push(name) }
        };
        let background = spawn_with(Share::Background, push("background"));
        let client = spawn_with(Share::Client, push("client"));
        background.await;
        client.await;
        assert_eq!(*order.borrow(), ["client", "background"]);

        // A client task that is always ready, and background work that must end all the same.
        let stop = Rc::new(Cell::new(false));
        let seen = stop.clone();
        let busy = spawn_with(Share::Client, async move {
            while !seen.get() {
                yield_now().await;
            }
        });
        spawn_with(Share::Background, async {
            for _ in 0..1000 {
                yield_now().await;
            }
        })
        .await;
        stop.set(true);
        busy.await;
    });
}

#[test]
fn children_have_their_parents_share() {
    block_on(async {
        let order = Rc::new(RefCell::new(Vec::new()));
        let theirs = order.clone();
        spawn_with(Share::Background, async move {
            let again = theirs.clone();
            let child = spawn(async move { again.borrow_mut().push("child of background") });
            let client = spawn_with(
                Share::Client,
                async move { theirs.borrow_mut().push("client") },
            );
            child.await;
            client.await;
        })
        .await;
        assert_eq!(*order.borrow(), ["client", "child of background"]);
    });
}

#[test]
fn a_time_slice_ends() {
    block_on(async {
        let mut polls = 0u64;
        while !should_yield() {
            polls += 1;
        }
        assert!(polls > 0, "a slice starts with the first question");
        yield_now().await;
        assert!(!should_yield(), "and anew with each poll");
    });
}

#[test]
fn helper_threads_answer() {
    block_on(async {
        let here = std::thread::current().id();
        let tasks: Vec<_> = (0..20)
            .map(|n| run_blocking(move || (n, std::thread::current().id())))
            .collect();
        for (n, task) in tasks.into_iter().enumerate() {
            let (answer, thread) = task.await;
            assert_eq!(answer, n);
            assert_ne!(thread, here);
        }
        drop(run_blocking(|| {
            std::thread::sleep(Duration::from_millis(5))
        }));
    });
}

#[test]
#[should_panic(expected = "as it should")]
fn a_panic_of_a_helper_is_the_callers() {
    block_on(async { run_blocking(|| panic!("as it should")).await })
}

#[test]
#[should_panic(expected = "task is broken")]
fn a_panic_of_a_task_ends_the_core() {
    block_on(async {
        spawn(async { panic!("task is broken") }).detach();
        std::future::pending::<()>().await
    })
}

#[test]
fn an_idle_core_sleeps() {
    block_on(async {
        sleep(Duration::from_millis(1)).await;
        let before = stats();
        sleep(Duration::from_millis(50)).await;
        let after = stats();
        assert!(
            after.enters - before.enters <= 3,
            "{} enters in one sleep",
            after.enters - before.enters
        );
    });
}

#[test]
fn time_and_randomness_move() {
    block_on(async {
        assert!(unix_ms() > 1_700_000_000_000);
        let first = now();
        assert!(now() >= first);
        assert_ne!(random_u64(), random_u64());
        let mut bytes = [0; 33];
        random_bytes(&mut bytes);
        assert_ne!(bytes, [0; 33]);
    });
}
