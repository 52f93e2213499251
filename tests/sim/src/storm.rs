//! One run: a broker, its clients, and what befalls them. Everything follows from the seed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use trireme_runtime::Instant;
use trireme_runtime::sim::{DiskFaults, FaultCounts, NetFaults, NodeId, Rot, Simulation};

use crate::clients::{admin, finale, member, reader, writer};
use crate::draw::{Dice, Mix};
use crate::history::{Checker, Counts, Violation};
use crate::stage::{Phase, Stage};
use crate::{broker, fsck, panics, trace};

/// Virtual time between two looks at the world.
const SLICE: Duration = Duration::from_millis(1);
/// With nothing in the way, nothing takes longer than this.
const PATIENCE: Duration = Duration::from_secs(180);
/// Virtual pause before a broker is started again, in ms.
const DOWN_MS_MAX: u64 = 400;
/// Power cuts of a run at least.
const POWER_CUTS_MIN: u64 = 2;
/// A call that a bad disk failed, or made wait, ends so long after that at most.
const LATE_ERROR_MAX: Duration = Duration::from_secs(1);
/// Generations of groups of a run at least.
const REBALANCES_MIN: u64 = 2;
/// What a full disk has room for, in MiB.
const FULL_DISK_MIB_MAX: u64 = 32;
/// Places of a disk that rot.
const ROTS_MAX: u64 = 6;
/// One in so many ends of a process is followed by a look of fsck at the disk; the last one always is.
const FSCK_ONE_IN: u64 = 4;
/// Lines of the simulator's own record that a traced run keeps.
const RECORD_LINES: usize = 200;

/// What a run was, and what it showed.
pub struct Outcome {
    pub seed: u64,
    pub violation: Option<Violation>,
    /// Over everything that happened and everything that clients were told.
    pub hash: u64,
    pub counts: Counts,
    pub faults: FaultCounts,
    pub clients: usize,
    pub cores: usize,
    pub power_cuts: u64,
    pub kills: u64,
    pub stops: u64,
    pub simulated: Duration,
    /// Empty unless asked for: what clients were told, then what the simulator did.
    pub trace: Vec<String>,
    pub recorded: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blow {
    PowerCut,
    Kill,
    Stop,
    /// A clean stop, and the power goes behind it.
    StopAndPowerCut,
    /// Some time of errors and waits of the disk.
    BadDisk,
    /// Some calls of the disk never return, until the process is ended.
    HungDisk,
    /// Some time of losses, waits and resets.
    BadNet,
    /// A client cannot reach the broker for a while.
    Partition,
}

struct Storm {
    sim: Simulation,
    stage: Rc<Stage>,
    dice: Dice,
    broker: NodeId,
    clients: Vec<NodeId>,
    cores: usize,
    /// Disk errors that may end a process are being injected.
    may_abort: bool,
    /// Until then one that was injected may still be on its way to the broker.
    may_abort_until: Instant,
    power_cuts: u64,
    kills: u64,
    stops: u64,
    /// What fsck said first against a disk. It is told if nothing else was wrong: clients' checkers go before it.
    fsck_complaint: Option<String>,
    /// Of its own, so that looking changes nothing.
    fsck_dice: Dice,
}

/// Runs a seed.
pub fn run(seed: u64, traced: bool) -> Outcome {
    let mix = Mix::draw(seed);
    let mut sim = Simulation::new(seed);
    if traced {
        sim.record(RECORD_LINES);
    }
    // The broker is the first node.
    let stage = Stage::new(mix.clone(), broker::address(NodeId(0)), traced);
    let broker = sim.node(mix.cores, broker::main(&stage, mix.cores));
    let mut storm = Storm {
        sim,
        stage: stage.clone(),
        dice: Dice::new(seed ^ 0x5708),
        broker,
        clients: Vec::new(),
        cores: mix.cores,
        may_abort: false,
        may_abort_until: Instant::default(),
        power_cuts: 0,
        kills: 0,
        stops: 0,
        fsck_complaint: None,
        fsck_dice: Dice::new(seed ^ 0xF5C),
    };
    storm.start_clients();
    if catch_unwind(AssertUnwindSafe(|| storm.live())).is_err() {
        storm.broken(Checker::Panic, panics::take());
    }
    if let Some(complaint) = storm.fsck_complaint.take() {
        storm.broken(Checker::Fsck, complaint);
    }
    let Storm {
        sim,
        power_cuts,
        kills,
        stops,
        ..
    } = storm;
    let simulated = Duration::from_nanos(sim.now().as_nanos());
    let (trace_hash, faults) = (sim.trace_hash(), sim.fault_counts());
    let recorded = if traced { sim.recorded() } else { Vec::new() };
    drop(sim);
    let history = stage.take_history();
    Outcome {
        seed,
        violation: history.violation().cloned(),
        hash: crate::records::mix(trace_hash ^ history.hash()),
        counts: history.counts,
        faults,
        clients: mix.clients(),
        cores: mix.cores,
        power_cuts,
        kills,
        stops,
        simulated,
        trace: history.into_trace(),
        recorded,
    }
}

impl Storm {
    fn start_clients(&mut self) {
        let stage = self.stage.clone();
        for (n, draw) in stage.mix.writers.iter().enumerate() {
            let draw = draw.clone();
            self.client(format!("writer-{n}"), move |stage, name| {
                writer::run(stage, draw.clone(), name)
            });
        }
        for n in 0..stage.mix.readers {
            self.client(format!("reader-{n}"), reader::run);
        }
        for draw in &stage.mix.groups {
            for n in 0..draw.members {
                let draw = draw.clone();
                let name = format!("{}-member-{n}", draw.name);
                self.client(name, move |stage, name| {
                    member::run(stage, draw.clone(), name)
                });
            }
        }
        self.client("admin".to_owned(), admin::run);
    }

    /// A client on a node of its own.
    fn client<Fut: Future<Output = ()> + 'static>(
        &mut self,
        name: String,
        run: impl Fn(Rc<Stage>, String) -> Fut + 'static,
    ) {
        let stage = self.stage.clone();
        stage.client_begins(&name);
        let node = self.sim.node(1, move |_| {
            let (stage, name) = (stage.clone(), name.clone());
            let running = run(stage.clone(), name.clone());
            async move {
                running.await;
                stage.client_ended(&name);
            }
        });
        self.clients.push(node);
    }

    /// The whole run; stops early when something is broken.
    fn live(&mut self) {
        let records = self.stage.mix.records;
        let blows = self.blows();
        let mut thresholds: Vec<u64> = blows
            .iter()
            .map(|_| self.dice.of(records / 30..=records * 19 / 20))
            .collect();
        thresholds.sort_unstable();
        for (blow, threshold) in blows.into_iter().zip(thresholds) {
            let stage = self.stage.clone();
            if !self.run_until("acknowledgements", move || {
                stage.acknowledged.get() >= threshold
            }) || !self.strike(blow)
            {
                return;
            }
        }
        if self.stage.mix.misdirects {
            let stage = self.stage.clone();
            if self.run_until("acknowledgements and rebalances", move || {
                stage.acknowledged.get() >= records && stage.rebalances() >= REBALANCES_MIN
            }) {
                self.misdirect();
            }
            return;
        }
        let stage = self.stage.clone();
        if !self.run_until("all writers' acknowledgements", move || {
            stage.writers_left.get() == 0
        }) {
            return;
        }
        self.sim.heal();
        self.sim.set_net_faults(NetFaults::default());
        self.calm_disk();
        let stage = self.stage.clone();
        if !self.run_until("rebalances", move || stage.rebalances() >= REBALANCES_MIN) {
            return;
        }
        self.stage.phase.set(Phase::Closing);
        let stage = self.stage.clone();
        if !self.run_until("the clients' end", move || stage.busy().is_empty()) {
            return;
        }
        let last = [
            Blow::PowerCut,
            Blow::Kill,
            Blow::Stop,
            Blow::StopAndPowerCut,
        ];
        let last = self.dice.pick(&last);
        if !self.strike(last) || !self.finale() || !self.stop() {
            return;
        }
        let ended_cleanly = matches!(*self.stage.broker_ended.borrow(), Some(Ok(())));
        self.look_at_disk(ended_cleanly, 1);
        if self.stage.mix.rots {
            self.rot();
        }
    }

    /// What happens, in order: at least two power cuts.
    fn blows(&mut self) -> Vec<Blow> {
        let mix = self.stage.mix.clone();
        let mut kinds = vec![
            Blow::PowerCut,
            Blow::Kill,
            Blow::Stop,
            Blow::StopAndPowerCut,
        ];
        if mix.disk_faults {
            kinds.extend([Blow::BadDisk, Blow::BadDisk, Blow::HungDisk]);
        }
        if mix.net_faults {
            kinds.extend([Blow::BadNet, Blow::Partition]);
        }
        let mut blows: Vec<Blow> = (0..mix.blows).map(|_| self.dice.pick(&kinds)).collect();
        blows[..POWER_CUTS_MIN as usize].fill(Blow::PowerCut);
        for at in (1..blows.len()).rev() {
            blows.swap(at, self.dice.next() as usize % (at + 1));
        }
        blows
    }

    fn strike(&mut self, blow: Blow) -> bool {
        self.note(format!("-------- {blow:?}"));
        match blow {
            Blow::PowerCut | Blow::Kill => {
                self.end(blow == Blow::PowerCut);
                self.start_again()
            }
            Blow::Stop | Blow::StopAndPowerCut => {
                if !self.stop() {
                    return false;
                }
                if blow == Blow::StopAndPowerCut {
                    self.power_cuts += 1;
                    self.sim.crash(self.broker);
                }
                self.start_again()
            }
            Blow::BadDisk => self.bad_disk(),
            Blow::HungDisk => self.hung_disk(),
            Blow::BadNet => {
                let faults = NetFaults {
                    slow_one_in: self.dice.of(20..=200),
                    loss_one_in: self.dice.of(20..=200),
                    reset_one_in: self.dice.of(50..=500),
                    refuse_one_in: self.dice.of(2..=10),
                    half_open_one_in: 2,
                    ..NetFaults::default()
                };
                self.sim.set_net_faults(faults);
                let ok = self.pass(3_000);
                // What is half open stays it; the rest is well again.
                self.sim.set_net_faults(NetFaults::default());
                ok
            }
            Blow::Partition => {
                let client = self.clients[self.dice.next() as usize % self.clients.len()];
                match self.dice.of(0..=2) {
                    0 => self.sim.partition_one_way(client, self.broker),
                    1 => self.sim.partition_one_way(self.broker, client),
                    _ => self.sim.partition(client, self.broker),
                }
                let ok = self.pass(6_000);
                self.sim.heal();
                ok
            }
        }
    }

    /// Lets up to so many ms pass.
    fn pass(&mut self, ms_max: u64) -> bool {
        let end = self.sim.now() + Duration::from_millis(self.dice.of(1..=ms_max));
        while self.sim.now() < end {
            if !self.slice() {
                return false;
            }
        }
        true
    }

    fn bad_disk(&mut self) -> bool {
        let mut faults = DiskFaults {
            stall_one_in: self.dice.of(5..=100),
            stall: Duration::from_millis(self.dice.of(1..=100)),
            ..DiskFaults::default()
        };
        let only_slow = faults.clone();
        match self.dice.of(0..=6) {
            0 => faults.no_space_one_in = self.dice.of(2..=50),
            1 => faults.write_error_one_in = self.dice.of(50..=500),
            2 => faults.sync_error_one_in = self.dice.of(5..=50),
            3 => faults.read_error_one_in = self.dice.of(2..=50),
            4 => faults.name_error_one_in = self.dice.of(2..=20),
            5 => faults.capacity_bytes = Some(self.dice.of(1..=FULL_DISK_MIB_MAX) << 20),
            _ => (),
        }
        self.may_abort = faults != only_slow;
        self.note(format!("{faults:?}"));
        self.sim.set_disk_faults(self.broker, faults);
        let ok = self.pass(1_500);
        self.calm_disk();
        ok
    }

    /// Calls that never return; nobody can do anything about the process but end it.
    fn hung_disk(&mut self) -> bool {
        let faults = DiskFaults {
            hang_one_in: self.dice.of(20..=500),
            ..DiskFaults::default()
        };
        self.note(format!("{faults:?}"));
        self.sim.set_disk_faults(self.broker, faults);
        let ok = self.pass(1_500);
        self.calm_disk();
        if ok {
            let by_power_cut = self.dice.one_in(2);
            self.end(by_power_cut);
        }
        ok && self.start_again()
    }

    fn calm_disk(&mut self) {
        if self.may_abort {
            self.may_abort_until = self.sim.now() + LATE_ERROR_MAX;
        }
        self.sim.set_disk_faults(self.broker, DiskFaults::default());
        self.may_abort = false;
    }

    /// Whether the disk excuses an end that nobody asked for.
    fn is_excused(&self) -> bool {
        self.may_abort || self.sim.now() < self.may_abort_until
    }

    /// Ends the broker's process without asking it.
    fn end(&mut self, by_power_cut: bool) {
        match by_power_cut {
            true => {
                self.power_cuts += 1;
                self.sim.crash(self.broker);
            }
            false => {
                self.kills += 1;
                self.sim.kill(self.broker);
            }
        }
        self.look_at_disk(false, FSCK_ONE_IN);
        self.ended(false);
    }

    /// Has fsck look, one time in so many, at what the end of the broker's process has left.
    fn look_at_disk(&mut self, ended_cleanly: bool, one_in: u64) {
        let looks = self.fsck_dice.one_in(one_in)
            && self.fsck_complaint.is_none()
            && !self.stage.history_outside().is_rotten;
        if looks {
            let image = self.sim.disk_image(self.broker);
            self.fsck_complaint = fsck::complaint(&image, ended_cleanly);
            if let Some(complaint) = self.fsck_complaint.clone() {
                self.note(format!("-------- fsck: {complaint}"));
            }
        }
    }

    fn ended(&mut self, cleanly: bool) {
        let now = self.sim.now();
        self.stage.history_outside().process_ended(cleanly, now);
    }

    /// Asks the broker to stop; false if that is not how it ends.
    fn stop(&mut self) -> bool {
        self.stops += 1;
        self.sim.terminate(self.broker);
        let end = self.sim.now() + PATIENCE;
        while self.sim.is_running(self.broker) {
            self.tick();
            if self.stage.is_broken() {
                return false;
            }
            if self.sim.now() > end {
                return self.broken(
                    Checker::Liveness,
                    "the broker does not stop when it is asked to".into(),
                );
            }
        }
        let ended = self.stage.broker_ended.borrow().clone();
        self.ended(matches!(ended, Some(Ok(()))));
        match ended {
            Some(Err(error)) if !self.is_excused() && !self.stage.history_outside().is_rotten => {
                self.broken(Checker::Recovery, format!("a clean stop: {error}"))
            }
            _ => true,
        }
    }

    /// After a pause, maybe with another number of cores, maybe with the power gone again in the middle.
    fn start_again(&mut self) -> bool {
        let down = Duration::from_millis(self.dice.of(0..=DOWN_MS_MAX));
        self.sim.run_for(down);
        loop {
            if self.dice.one_in(3) {
                self.cores = self.dice.of(2..=4) as usize;
            }
            let cores = self.cores;
            self.note(format!("-------- start with {cores} cores"));
            self.sim
                .restart_with(self.broker, cores, broker::main(&self.stage, cores));
            if !self.dice.one_in(4) {
                return self.slice();
            }
            // Into the recovery.
            let soon = self.sim.now() + Duration::from_micros(self.dice.of(0..=100_000));
            while self.sim.now() < soon {
                if !self.slice() {
                    return false;
                }
            }
            let by_power_cut = !self.dice.one_in(3);
            self.note("-------- again".into());
            self.end(by_power_cut);
        }
    }

    fn finale(&mut self) -> bool {
        self.note("-------- everything is read".into());
        self.stage.finale_done.set(false);
        let stage = self.stage.clone();
        self.sim.node(1, move |_| finale::run(stage.clone()));
        let stage = self.stage.clone();
        self.run_until("the reading of everything", move || stage.finale_done.get())
    }

    /// Bits flip while the broker does not run. It may refuse to start, or to read; what it gives has to be right.
    fn rot(&mut self) {
        self.stage.history_outside().is_rotten = true;
        let only_segments = self.dice.one_in(2);
        for _ in 0..self.dice.of(1..=ROTS_MAX) {
            let rot = self.dice.pick(&[Rot::Bit, Rot::Bit, Rot::Sector]);
            let may_rot = |path: &str| !only_segments || path.ends_with(".log");
            let place = self.sim.rot(self.broker, rot, may_rot);
            self.note(format!("-------- {rot:?} rots: {place:?}"));
        }
        self.read_damaged();
    }

    /// Starts the broker on a disk that something has damaged, and reads everything.
    fn read_damaged(&mut self) {
        let cores = self.cores;
        self.sim
            .restart_with(self.broker, cores, broker::main(&self.stage, cores));
        self.finale();
    }

    /// Some writes go to wrong places and say that they went well; after some more that go right, and a clean stop, everything
    /// is read. As with rot: no to this or that, but nothing wrong.
    fn misdirect(&mut self) {
        self.stage.history_outside().is_rotten = true;
        let faults = DiskFaults {
            misdirect_one_in: self.dice.of(3..=200),
            ..DiskFaults::default()
        };
        self.note(format!("-------- {faults:?}"));
        self.sim.set_disk_faults(self.broker, faults);
        if !self.pass(1_500) {
            return;
        }
        self.calm_disk();
        if !self.pass(500) || !self.stop() {
            return;
        }
        // What they send meanwhile would go on moving the ends of the logs.
        for client in std::mem::take(&mut self.clients) {
            self.sim.kill(client);
        }
        self.read_damaged();
    }

    /// Runs on until something is so; false if something broke, or it takes too long.
    fn run_until(&mut self, what: &str, done: impl Fn() -> bool) -> bool {
        let mut end = self.sim.now() + PATIENCE;
        let mut progress = self.stage.acknowledged.get();
        while !done() {
            if !self.slice() {
                return false;
            }
            if self.stage.acknowledged.get() != progress {
                progress = self.stage.acknowledged.get();
                end = self.sim.now() + PATIENCE;
            }
            if self.sim.now() > end {
                let busy = self.stage.busy().join(", ");
                return self.broken(
                    Checker::Liveness,
                    format!("still waiting for {what}; busy: {busy}"),
                );
            }
        }
        true
    }

    fn tick(&mut self) {
        self.sim.run_for(SLICE);
        trace::set_clock(self.sim.now().as_nanos());
    }

    /// A little time; false if the run is over. A broker that ended by itself is started again where its disk excuses it.
    fn slice(&mut self) -> bool {
        self.tick();
        if self.stage.is_broken() {
            return false;
        }
        if self.sim.is_running(self.broker) {
            return true;
        }
        let ended = self.stage.broker_ended.borrow().clone();
        self.ended(false);
        let is_rotten = self.stage.history_outside().is_rotten;
        match ended {
            // It has said no, as it may.
            _ if is_rotten => return false,
            Some(Err(error)) if !self.is_excused() => {
                return self.broken(Checker::Recovery, error.to_string());
            }
            None if !self.is_excused() => {
                return self.broken(
                    Checker::Panic,
                    "the broker ended itself, with nothing wrong with its disk".into(),
                );
            }
            Some(Ok(())) => {
                return self.broken(
                    Checker::Liveness,
                    "the broker stopped, and nobody had asked".into(),
                );
            }
            ended => self.note(format!("-------- the broker ended: {ended:?}")),
        }
        // A disk that failed once may go on failing, or be well.
        if self.dice.one_in(2) {
            self.calm_disk();
        }
        self.start_again()
    }

    fn note(&self, line: String) {
        trace::set_clock(self.sim.now().as_nanos());
        self.stage.history_outside().note(0, || line);
    }

    fn broken(&self, checker: Checker, what: String) -> bool {
        self.stage.history_outside().broken(checker, what);
        false
    }
}
