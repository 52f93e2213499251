//! From a frame to the API that answers it.
//!
//! **To add an API**: write `api/NAME.rs` (or a file below `groups/`) with a `pub const API: Api`, and add its line to the table in
//! `api.rs`; it is advertised from then on. For an API of the generated codec the whole entry is
//!
//! ```ignore
//! pub const API: Api = Api {
//!     key: 12, name: "Heartbeat", min: 0, max: 4, flexible: 4, order: Order::Serial,
//!     start: |request| dispatch::typed(request, handle),
//! };
//!
//! async fn handle(call: Call, request: HeartbeatRequestData) -> Answer<HeartbeatResponseData> {
//!     Ok(HeartbeatResponseData::default().with_error_code(ErrorCode::UnknownMemberId.code()))
//! }
//! ```
//! with its two types named in the lists of `codec.rs`. The body is decoded when the request's turn comes, so that a connection holds
//! one decoded request whatever it pipelines. Strings and bytes of a decoded body are slices of the frame and keep the whole of it (and
//! its share of the core's receive memory) alive: copy what is kept, and drop the request before a long wait.
//!
//! **Order.** Answers always leave in the order of the requests. `Order::Serial` requests also run one after the other, as in Kafka:
//! one begins when everything before it on the connection has been answered, and what comes after waits for it. `Order::Pipelined`
//! requests begin as they arrive (unless a Serial one is still under way): the synchronous part of `start` runs in order of arrival,
//! the future that it returns must make progress without being polled, or be content with being polled when its turn to answer comes.
//! [`pipelined`] is `typed` for these: its handler is a plain function that begins the work and returns the future of the answer.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use bytes::Bytes;

use crate::api::{self, api_versions};
use crate::codec::{RequestBody, ResponseBody};
use crate::connection::Peer;
use crate::door::Door;
use crate::header;
use crate::metrics::add;
use crate::reply::{self, Reply};

/// Requests of the generated codec larger than this close the connection: a decoded body takes up to some 40 times its bytes, so this
/// bounds what one request can cost. (4 MiB hold an offset commit of 100,000 partitions.)
pub const MAX_DECODED_BYTES: usize = 4 << 20;

/// One API: what is advertised, how it is ordered, and who answers.
pub struct Api {
    pub key: i16,
    pub name: &'static str,
    /// First and last version advertised and served.
    pub min: i16,
    pub max: i16,
    /// First version with flexible headers; `NEVER_FLEXIBLE` when there is none.
    pub flexible: i16,
    pub order: Order,
    pub start: fn(Request) -> Started,
}

pub const NEVER_FLEXIBLE: i16 = i16::MAX;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    Serial,
    Pipelined,
}

/// A request whose header has been read.
pub struct Request {
    pub call: Call,
    pub body: Bytes,
}

/// What a handler may use: this core's door, the request's header, the connection.
#[derive(Clone)]
pub struct Call {
    pub door: Rc<Door>,
    pub peer: Rc<Peer>,
    pub api: &'static Api,
    pub correlation_id: i32,
    version: i16,
    client_id: Option<Rc<str>>,
}

impl Call {
    pub fn version(&self) -> i16 {
        self.version
    }

    /// Client id, empty when none was sent.
    pub fn client_id(&self) -> &str {
        self.client_id.as_deref().unwrap_or("")
    }

    /// Who asks, as the group coordinator keeps it.
    pub fn group_client(&self) -> crate::groups::Client {
        crate::groups::Client {
            client_id: self.client_id().to_owned(),
            host: format!("/{}", self.peer.remote.ip()),
            api_version: self.version,
        }
    }

    /// Whether the version has compact arrays and tagged fields.
    pub fn flexible(&self) -> bool {
        self.version >= self.api.flexible
    }

    /// Whether the response header has tagged fields: ApiVersions never has, because its asker cannot know yet what we speak.
    pub fn flexible_header(&self) -> bool {
        self.flexible() && self.api.key != api_versions::API.key
    }
}

/// What has begun.
pub enum Started {
    Done(Reply),
    Pending(Pin<Box<dyn Future<Output = Reply>>>),
}

/// The connection is to be closed: the request cannot be parsed, or its API has no way to say what is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseConnection;

/// A handler's answer.
pub type Answer<R> = Result<R, CloseConnection>;

/// Starts the request of a frame: its API key, its order, and what has begun.
pub fn start(door: &Rc<Door>, peer: &Rc<Peer>, mut frame: Bytes) -> (i16, Order, Started) {
    let size = frame.len() as u64;
    let refused = |key| (key, Order::Serial, Started::Done(Reply::Close));
    let Ok(fixed) = header::read_fixed(&mut frame) else {
        return refused(-1);
    };
    let Some(api) = api::find(fixed.api_key) else {
        tracing::debug!(peer = %peer.remote, api_key = fixed.api_key, "unknown API");
        add(&door.metrics.unknown_requests, 1);
        return refused(fixed.api_key);
    };
    door.metrics.api(fixed.api_key).inspect(|counters| {
        add(&counters.requests, 1);
        add(&counters.request_bytes, size);
    });
    if !(api.min..=api.max).contains(&fixed.version) {
        add(&door.metrics.unknown_requests, 1);
        if api.key == api_versions::API.key {
            return (
                api.key,
                Order::Serial,
                Started::Done(api_versions::unsupported(fixed.correlation_id)),
            );
        }
        tracing::debug!(peer = %peer.remote, api = api.name, version = fixed.version, "unsupported version");
        return refused(api.key);
    }
    let Ok(rest) = header::read_rest(&mut frame, fixed, fixed.version >= api.flexible) else {
        return refused(api.key);
    };
    let client_id = rest
        .client_id
        .map(|id| peer.intern_client_id(std::str::from_utf8(&id).unwrap_or("")));
    let call = Call {
        door: door.clone(),
        peer: peer.clone(),
        api,
        correlation_id: fixed.correlation_id,
        version: fixed.version,
        client_id,
    };
    (
        api.key,
        api.order,
        (api.start)(Request { call, body: frame }),
    )
}

/// Runs a handler over decoded bodies when the request's turn comes.
pub fn typed<Q, R, F>(request: Request, handle: impl FnOnce(Call, Q) -> F + 'static) -> Started
where
    Q: RequestBody + 'static,
    R: ResponseBody,
    F: Future<Output = Answer<R>> + 'static,
{
    Started::Pending(Box::pin(async move {
        let Request { call, body } = request;
        let Ok(decoded) = decode::<Q>(body, call.version()) else {
            return Reply::Close;
        };
        let answer = handle(call.clone(), decoded).await;
        encode(&call, answer)
    }))
}

/// Like [`typed`] for `Order::Pipelined`: decodes and begins now.
pub fn pipelined<Q, R, F>(request: Request, begin: impl FnOnce(Call, Q) -> F) -> Started
where
    Q: RequestBody,
    R: ResponseBody,
    F: Future<Output = Answer<R>> + 'static,
{
    let Request { call, body } = request;
    let Ok(decoded) = decode::<Q>(body, call.version()) else {
        return Started::Done(Reply::Close);
    };
    let answer = begin(call.clone(), decoded);
    Started::Pending(Box::pin(async move { encode(&call, answer.await) }))
}

/// Reads a body of the generated codec. Bytes left behind it are ignored, as Kafka does.
pub fn decode<Q: RequestBody>(mut body: Bytes, version: i16) -> Result<Q, CloseConnection> {
    if body.len() > MAX_DECODED_BYTES {
        return Err(CloseConnection);
    }
    Q::read(&mut body, version).map_err(|error| {
        tracing::debug!(%error, "malformed request body");
        CloseConnection
    })
}

fn encode<R: ResponseBody>(call: &Call, answer: Answer<R>) -> Reply {
    let Ok(body) = answer else {
        return Reply::Close;
    };
    let version = call.version();
    let mut frame = reply::begin(
        call.correlation_id,
        call.flexible_header(),
        body.encoded_len(version).unwrap_or(256),
    );
    match body.write(&mut frame, version) {
        Ok(()) => reply::finish(frame),
        Err(error) => {
            // An answer that its version cannot carry is our own mistake; the client gets a close instead of a lie.
            tracing::error!(%error, api = call.api.name, version, "response cannot be encoded");
            debug_assert!(false, "{} v{version}: {error}", call.api.name);
            Reply::Close
        }
    }
}
