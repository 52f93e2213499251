//! The cores go through start and stop together, led by core 0.
//!
//! Start: core 0 says what the others need, each does its part, reports, and core 0 knows when all have. A core that fails says
//! why; the first reason is the one that is told, and everybody stops. Stop: every core takes a step, reports, and only when
//! all have is the next step begun: no core's engine ends while another one's connections may still ask it for something.

use std::cell::RefCell;
use std::rc::Rc;
use trireme_runtime::Port;
use trireme_runtime::sync::{CancelToken, Notify};

/// What cores say to each other.
pub enum Note<T> {
    /// From core 0: go on, with this.
    Go(T),
    /// To core 0: done with the current step.
    Done,
    /// To core 0: this core cannot go on.
    Failed(String),
    /// From core 0: stop.
    Stop,
}

/// One core's part of it.
pub struct Crew<T> {
    port: Port<Note<T>>,
    core: usize,
    cores: usize,
    shared: Rc<Shared<T>>,
}

struct Shared<T> {
    go: RefCell<std::collections::VecDeque<T>>,
    done: std::cell::Cell<usize>,
    failed: RefCell<Option<String>>,
    changed: Notify,
    stop: CancelToken,
}

/// A core could not go on; the first one's reason.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Failed(pub String);

impl<T: Clone + Send + 'static> Crew<T> {
    pub fn new(port: Port<Note<T>>, core: usize, cores: usize) -> Rc<Self> {
        let shared = Rc::new(Shared {
            go: RefCell::default(),
            done: Default::default(),
            failed: RefCell::default(),
            changed: Notify::new(),
            stop: CancelToken::new(),
        });
        let crew = Rc::new(Crew {
            port,
            core,
            cores,
            shared,
        });
        let listener = crew.clone();
        trireme_runtime::spawn(async move { listener.listen().await }).detach();
        crew
    }

    async fn listen(&self) {
        loop {
            let (_, note) = self.port.recv().await;
            match note {
                Note::Go(value) => self.shared.go.borrow_mut().push_back(value),
                Note::Done => self.shared.done.set(self.shared.done.get() + 1),
                Note::Failed(reason) => {
                    self.shared.failed.borrow_mut().get_or_insert(reason);
                }
                Note::Stop => self.shared.stop.cancel(),
            }
            self.shared.changed.notify_all();
        }
    }

    fn send(&self, to: usize, note: Note<T>) {
        // A handful of notes in a node's life, far below the credits of a pair.
        assert!(self.port.send(to, note).is_ok(), "credits for a few notes");
    }

    fn send_all(&self, note: impl Fn() -> Note<T>) {
        for to in 0..self.cores {
            self.send(to, note());
        }
    }

    /// Canceled when core 0 has said stop.
    pub fn stop_token(&self) -> &CancelToken {
        &self.shared.stop
    }

    /// Core 0: everybody goes on, with this.
    pub fn lead(&self, value: T) {
        assert_eq!(self.core, 0, "core 0 leads");
        self.send_all(|| Note::Go(value.clone()));
    }

    /// Core 0: everybody stops.
    pub fn stop_all(&self) {
        assert_eq!(self.core, 0, "core 0 leads");
        self.send_all(|| Note::Stop);
    }

    /// Waits for core 0's word; `None` if that is to stop.
    pub async fn follow(&self) -> Option<T> {
        self.stop_token().run_until_canceled(self.next_step()).await
    }

    /// Waits for core 0's next word, also while stopping.
    pub async fn next_step(&self) -> T {
        loop {
            if let Some(value) = self.shared.go.borrow_mut().pop_front() {
                return value;
            }
            self.shared.changed.notified().await;
        }
    }

    pub fn report(&self, result: Result<(), String>) {
        self.send(0, result.map_or_else(Note::Failed, |()| Note::Done));
    }

    /// Core 0: waits until every core has reported this step, or one has failed.
    pub async fn all_done(&self) -> Result<(), Failed> {
        loop {
            if let Some(reason) = self.shared.failed.borrow().clone() {
                return Err(Failed(reason));
            }
            let done = self.shared.done.get();
            if done >= self.cores {
                self.shared.done.set(done - self.cores);
                return Ok(());
            }
            self.shared.changed.notified().await;
        }
    }
}
