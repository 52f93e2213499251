//! One connection: a reader that starts requests in the order of their arrival, and a writer that sends the answers in that order.
//!
//! Who waits for whom: the reader takes a frame, waits while a Serial request is under way or [`MAX_PIPELINED`] requests are
//! unanswered, then starts it and queues what has begun. The writer polls the front of the queue alone; answers that are ready together
//! leave in one write. A Serial request is therefore always the last of the queue, and the frames that a connection holds are the
//! pipelined ones under way (which give their frame back as soon as they have begun), one Serial one, and one that waits.
//!
//! When the peer closes, what has been started runs to its end (a LeaveGroup sent right before the close counts), long polls are woken
//! through [`Peer::gone`], and answers go out as far as the socket takes them. What cannot be parsed closes the connection after the
//! answers to everything before it, as Kafka does.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use trireme_net::{Connection, FrameReader, Segment, Writer};
use trireme_runtime::sync::{CancelToken, Notify};

use crate::dispatch::{Order, Started};
use crate::door::Door;
use crate::metrics::add;
use crate::reply::Reply;

/// Requests of one connection that may be under way at a time. Java clients send 5 at most by default, librdkafka up to a million.
pub const MAX_PIPELINED: usize = 64;

/// Bytes of answers that are gathered into one write before the next one is asked for.
const WRITE_BATCH_BYTES: u64 = 256 << 10;

/// What handlers may know of the connection.
pub struct Peer {
    pub remote: SocketAddr,
    pub local: SocketAddr,
    /// Counts the core's connections; together with the core it names one.
    pub id: u64,
    /// Cancelled when the peer has closed or the broker stops: a long poll ends at once.
    pub gone: CancelToken,
    last_client_id: RefCell<Rc<str>>,
}

impl Peer {
    fn new(connection: &Connection, id: u64) -> Peer {
        Peer {
            remote: connection.peer,
            local: connection.local,
            id,
            gone: connection.stop.child(),
            last_client_id: RefCell::new("".into()),
        }
    }

    /// Nobody: for tests and fuzzers, which bring requests without a connection.
    pub fn unconnected() -> Peer {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        Peer {
            remote: nowhere,
            local: nowhere,
            id: 0,
            gone: CancelToken::new(),
            last_client_id: RefCell::new("".into()),
        }
    }

    /// The client id as shared text: one allocation per connection, as a client does not change its name.
    pub fn intern_client_id(&self, id: &str) -> Rc<str> {
        let mut last = self.last_client_id.borrow_mut();
        if **last != *id {
            *last = id.into();
        }
        last.clone()
    }
}

struct Entry {
    api_key: i16,
    order: Order,
    started: Started,
}

struct Lane {
    queue: RefCell<VecDeque<Entry>>,
    /// Requests started and not answered, those that the writer has taken included.
    unanswered: Cell<usize>,
    serial: Cell<bool>,
    /// The reader has ended: no entry follows.
    ended: Cell<bool>,
    /// The writer has ended: nothing is sent any more.
    broken: Cell<bool>,
    arrived: Notify,
    answered: Notify,
}

/// Serves a connection until either side closes it.
pub async fn serve(door: Rc<Door>, connection: Connection) {
    add(&door.metrics.connections_opened, 1);
    let peer = Rc::new(Peer::new(&connection, door.next_connection_id()));
    let (reader, writer) = connection.split();
    let lane = Rc::new(Lane {
        queue: RefCell::default(),
        unanswered: Cell::new(0),
        serial: Cell::new(false),
        ended: Cell::new(false),
        broken: Cell::new(false),
        arrived: Notify::new(),
        answered: Notify::new(),
    });
    let writing = trireme_runtime::spawn(write_answers(door.clone(), lane.clone(), writer));
    read_requests(&door, &peer, &lane, reader).await;
    lane.ended.set(true);
    lane.arrived.notify_one();
    peer.gone.cancel();
    writing.await;
    add(&door.metrics.connections_closed, 1);
}

async fn read_requests(door: &Rc<Door>, peer: &Rc<Peer>, lane: &Rc<Lane>, mut reader: FrameReader) {
    loop {
        let frame = match reader.read_frame(door.config.max_request_bytes).await {
            Ok(Some(frame)) => frame,
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(peer = %peer.remote, %error, "connection ended");
                return;
            }
        };
        while !lane.broken.get() && (lane.serial.get() || lane.unanswered.get() >= MAX_PIPELINED) {
            lane.answered.notified().await;
        }
        if lane.broken.get() {
            return;
        }
        let (api_key, order, started) = crate::dispatch::start(door, peer, frame);
        let close = matches!(started, Started::Done(Reply::Close));
        lane.unanswered.set(lane.unanswered.get() + 1);
        lane.serial.set(order == Order::Serial);
        lane.queue.borrow_mut().push_back(Entry {
            api_key,
            order,
            started,
        });
        lane.arrived.notify_one();
        if close {
            return;
        }
    }
}

async fn write_answers(door: Rc<Door>, lane: Rc<Lane>, mut writer: Writer) {
    let mut sendable = true;
    loop {
        let Some(entry) = lane.queue.borrow_mut().pop_front() else {
            if lane.ended.get() {
                break;
            }
            lane.arrived.notified().await;
            continue;
        };
        let mut segments = Vec::new();
        let mut leases = Vec::new();
        let mut bytes = 0;
        let mut answered = 0;
        let mut serial_answered = false;
        let mut next = Some(entry);
        let mut close = false;
        while let Some(entry) = next.take() {
            let reply = finish(entry.started).await;
            answered += 1;
            let counters = door.metrics.api(entry.api_key);
            match reply {
                Reply::Send(parts, lease) => {
                    let size: u64 = parts.iter().map(Segment::len).sum();
                    counters.inspect(|api| add(&api.response_bytes, size));
                    bytes += size;
                    segments.extend(parts);
                    leases.extend(lease);
                }
                Reply::Nothing => {}
                Reply::Close => {
                    counters.inspect(|api| add(&api.closed, 1));
                    close = true;
                    break;
                }
            }
            if bytes < WRITE_BATCH_BYTES {
                next = pop_ready(&lane).await;
            }
            if entry.order == Order::Serial {
                debug_assert!(next.is_none(), "nothing is started behind a serial request");
                serial_answered = true;
            }
        }
        if sendable
            && !segments.is_empty()
            && let Err(error) = writer.write(segments).await
        {
            // What was started still runs to its end; its answers have nowhere to go.
            tracing::debug!(%error, "answer not sent");
            sendable = false;
            writer.close();
        }
        drop(leases);
        lane.unanswered.set(lane.unanswered.get() - answered);
        if serial_answered {
            lane.serial.set(false);
        }
        if close || !sendable {
            lane.broken.set(true);
        }
        if close {
            break;
        }
        lane.answered.notify_one();
    }
    lane.broken.set(true);
    lane.answered.notify_one();
    writer.close();
}

async fn finish(started: Started) -> Reply {
    match started {
        Started::Done(reply) => reply,
        Started::Pending(future) => future.await,
    }
}

/// The next answer, if it is there already. A Serial request is not begun before everything earlier has been sent.
async fn pop_ready(lane: &Lane) -> Option<Entry> {
    poll_fn(|context| {
        let mut queue = lane.queue.borrow_mut();
        let Some(front) = queue.front_mut() else {
            return Poll::Ready(None);
        };
        if let Started::Pending(future) = &mut front.started {
            if front.order == Order::Serial {
                return Poll::Ready(None);
            }
            // A handler never reaches back into its own lane, so the borrow is free of surprises.
            match Pin::new(future).poll(context) {
                Poll::Ready(reply) => front.started = Started::Done(reply),
                Poll::Pending => return Poll::Ready(None),
            }
        }
        Poll::Ready(queue.pop_front())
    })
    .await
}
