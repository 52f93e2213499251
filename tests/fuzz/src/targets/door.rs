//! The Kafka door on a simulated node: requests as they come from a socket, through API, engine and groups. Waiting costs
//! nothing there, so a long poll is no hang.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use trireme_engine::{Engine, EngineConfig};
use trireme_kafka::api::{APIS, find};
use trireme_kafka::connection::Peer;
use trireme_kafka::dispatch::{self, Started};
use trireme_kafka::groups::{GroupConfig, service::Groups};
use trireme_kafka::reply::Reply;
use trireme_kafka::{Door, DoorConfig};
use trireme_replication::{Metadata, MetadataOptions};
use trireme_runtime::sim::{NodeId, Simulation};
use trireme_runtime::sync::Notify;
use trireme_runtime::{service, timeout};

use crate::seeds;

/// What a request may take of the node's own time: as long as a client would wait.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// After so many requests a new node is started, so that what they left behind stays small.
const REQUESTS_OF_A_NODE: u32 = 500;

/// A node that takes one frame after the other.
struct Node {
    sim: Simulation,
    id: NodeId,
    frames: Rc<RefCell<VecDeque<Bytes>>>,
    arrived: Rc<Notify>,
    answered: Rc<Cell<u32>>,
    asked: u32,
}

thread_local! {
    static NODE: RefCell<Option<Node>> = const { RefCell::new(None) };
}

fn start() -> Node {
    let frames: Rc<RefCell<VecDeque<Bytes>>> = Rc::default();
    let arrived = Rc::new(Notify::new());
    let answered = Rc::new(Cell::new(0));
    let mut sim = Simulation::new(1);
    let (inbox, bell, done) = (frames.clone(), arrived.clone(), answered.clone());
    let id = sim.node(1, move |_| {
        let (inbox, bell, done) = (inbox.clone(), bell.clone(), done.clone());
        async move {
            let door = open().await;
            let peer = Rc::new(Peer::unconnected());
            loop {
                let rung = bell.notified();
                let next = inbox.borrow_mut().pop_front();
                match next {
                    Some(frame) => {
                        answer(&door, &peer, frame).await;
                        done.set(done.get() + 1);
                    }
                    None => rung.await,
                }
            }
        }
    });
    Node {
        sim,
        id,
        frames,
        arrived,
        answered,
        asked: 0,
    }
}

async fn open() -> Rc<Door> {
    let config = EngineConfig {
        wal_file_bytes: 1 << 20,
        first_wal_file_bytes: 128 << 10,
        tail_memory_bytes: 8 << 20,
        reserve_bytes: 0,
        ..EngineConfig::new("/data")
    };
    Engine::prepare(&config).await.expect("an empty disk");
    let mail = service(1).pop().expect("one core");
    let engine = Engine::open(config, 0, 1, mail)
        .await
        .expect("an empty disk");
    let options = MetadataOptions {
        node_id: 1,
        broker_defaults: Default::default(),
        to_partition_config: trireme_kafka::configs::to_partition_config,
        shards: 1,
    };
    let mail = service(1).pop().expect("one core");
    let metadata = Metadata::open(engine.clone(), 0, 1, mail, options)
        .await
        .expect("an empty disk");
    let mail = service(1).pop().expect("one core");
    let groups = Groups::open(
        engine.clone(),
        metadata.clone(),
        mail,
        0,
        1,
        GroupConfig::default(),
    );
    let config = DoorConfig {
        data_dir: "/data".to_owned(),
        ..DoorConfig::default()
    };
    Door::new(config, engine, metadata, groups)
}

async fn answer(door: &Rc<Door>, peer: &Rc<Peer>, frame: Bytes) {
    let (_, _, started) = dispatch::start(door, peer, frame);
    let reply = match started {
        Started::Done(reply) => Some(reply),
        Started::Pending(future) => timeout(ANSWER_MAX, future).await.ok(),
    };
    if let Some(Reply::Send(segments, _)) = reply {
        drop(segments);
    }
}

fn ask(frame: Bytes) {
    NODE.with_borrow_mut(|slot| {
        let node = slot.get_or_insert_with(start);
        node.frames.borrow_mut().push_back(frame);
        node.arrived.notify_all();
        node.asked += 1;
        let (answered, asked) = (node.answered.clone(), node.asked);
        let ended = node.sim.run_until(|| answered.get() == asked);
        assert!(ended, "the node is not there any more");
        if node.asked == REQUESTS_OF_A_NODE {
            // Its tasks hold each other.
            node.sim.kill(node.id);
            *slot = None;
        }
    });
}

/// A frame as it is.
pub fn frame(input: &[u8]) {
    ask(Bytes::copy_from_slice(input));
}

/// First byte: the API; second: the version; the rest: the body.
pub fn request(input: &[u8]) {
    let [api, version, body @ ..] = input else {
        return;
    };
    let api = APIS[usize::from(*api) % APIS.len()];
    let versions = (api.max - api.min + 1) as u8;
    let version = api.min + i16::from(version % versions);
    ask(framed(api.key, version, version >= api.flexible, body));
}

fn framed(key: i16, version: i16, flexible: bool, body: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_i16(key);
    frame.put_i16(version);
    frame.put_i32(4711);
    frame.put_i16(2);
    frame.put_slice(b"me");
    if flexible {
        frame.put_u8(0);
    }
    frame.put_slice(body);
    frame.freeze()
}

/// Bodies of requests with something in them, by API and version.
fn bodies() -> Vec<(i16, i16, Vec<u8>)> {
    let mut bodies = Vec::new();
    for api in APIS {
        for version in api.min..=api.max {
            for request in seeds::requests(api.key) {
                let mut body = BytesMut::new();
                if request.encode(&mut body, version).is_ok() {
                    bodies.push((api.key, version, body.to_vec()));
                }
            }
        }
    }
    bodies
}

pub fn frame_seeds() -> Vec<Vec<u8>> {
    let framed = |(key, version, body): (i16, i16, Vec<u8>)| {
        let flexible = find(key).is_some_and(|api| version >= api.flexible);
        framed(key, version, flexible, &body).to_vec()
    };
    bodies().into_iter().map(framed).collect()
}

pub fn request_seeds() -> Vec<Vec<u8>> {
    let input = |(key, version, body): (i16, i16, Vec<u8>)| {
        let index = APIS
            .iter()
            .position(|api| api.key == key)
            .expect("it is of the table");
        let version = (version - APIS[index].min) as u8;
        [&[index as u8, version], &body[..]].concat()
    };
    bodies().into_iter().map(input).collect()
}
