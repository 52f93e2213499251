//! A client's connection: requests out, responses in, in order, by a codec that is not the broker's.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{ApiVersionsRequest, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use trireme_runtime::net::TcpStream;
use trireme_runtime::timeout;

/// Why a call has no answer: from here on nobody knows whether it took effect.
#[derive(Clone, Debug)]
pub struct Broken(pub String);

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Largest response that is taken; far above what is asked for.
const RESPONSE_BYTES_MAX: usize = 64 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

pub struct Connection {
    stream: TcpStream,
    next_correlation: Cell<i32>,
    /// By API key: the broker's versions.
    versions: RefCell<BTreeMap<i16, (i16, i16)>>,
    client_id: StrBytes,
}

/// A request that was sent.
pub struct Ticket<R> {
    correlation: i32,
    version: i16,
    request: PhantomData<R>,
}

impl Connection {
    /// Connects and asks for the versions, as clients do.
    pub async fn open(
        addr: SocketAddr,
        client_id: &str,
        patience: Duration,
    ) -> Result<Connection, Broken> {
        let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(addr))
            .await
            .map_err(|_| Broken("connecting takes too long".into()))?
            .map_err(|error| Broken(format!("connecting: {error}")))?;
        let connection = Connection {
            stream,
            next_correlation: Cell::new(1),
            versions: RefCell::default(),
            client_id: StrBytes::from_string(client_id.to_owned()),
        };
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str("trireme-sim"))
            .with_client_software_version(StrBytes::from_static_str("1"));
        let answer = connection.call_version(3, request, patience).await?;
        let versions = answer
            .api_keys
            .iter()
            .map(|api| (api.api_key, (api.min_version, api.max_version)))
            .collect();
        *connection.versions.borrow_mut() = versions;
        Ok(connection)
    }

    /// The highest version that both sides know, or `at_most` if that is lower.
    pub fn version<R: Request>(&self, at_most: i16) -> i16 {
        let (min, max) = self
            .versions
            .borrow()
            .get(&R::KEY)
            .copied()
            .unwrap_or((0, 0));
        max.min(R::VERSIONS.max).min(at_most).max(min)
    }

    pub async fn send<R: Request>(
        &self,
        version: i16,
        request: &R,
        patience: Duration,
    ) -> Result<Ticket<R>, Broken> {
        let correlation = self.next_correlation.get();
        self.next_correlation.set(correlation + 1);
        let mut frame = BytesMut::new();
        frame.put_i32(0);
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(correlation)
            .with_client_id(Some(self.client_id.clone()));
        header
            .encode(&mut frame, R::header_version(version))
            .and_then(|()| request.encode(&mut frame, version))
            .expect("a request that its version can say");
        let len = (frame.len() - 4) as i32;
        frame[..4].copy_from_slice(&len.to_be_bytes());
        timeout(patience, self.stream.send_all(vec![frame.freeze()]))
            .await
            .map_err(|_| Broken("sending takes too long".into()))?
            .map_err(|error| Broken(format!("sending: {error}")))?;
        Ok(Ticket {
            correlation,
            version,
            request: PhantomData,
        })
    }

    /// The answer to the oldest request that has none yet, which has to be this one.
    pub async fn receive<R: Request>(
        &self,
        ticket: Ticket<R>,
        patience: Duration,
    ) -> Result<R::Response, Broken> {
        let mut frame = timeout(patience, self.frame())
            .await
            .map_err(|_| Broken("no answer in time".into()))??;
        let version = ticket.version;
        let malformed = |error: anyhow::Error| {
            Broken(format!(
                "MALFORMED answer to API {} v{version}: {error}",
                R::KEY
            ))
        };
        let header = ResponseHeader::decode(&mut frame, R::Response::header_version(version))
            .map_err(malformed)?;
        if header.correlation_id != ticket.correlation {
            return Err(Broken(format!(
                "MALFORMED: answer {} where {} was next",
                header.correlation_id, ticket.correlation
            )));
        }
        let response = R::Response::decode(&mut frame, version).map_err(malformed)?;
        if !frame.is_empty() {
            return Err(Broken(format!(
                "MALFORMED: {} bytes behind an answer to API {}",
                frame.len(),
                R::KEY
            )));
        }
        Ok(response)
    }

    pub async fn call<R: Request>(
        &self,
        request: R,
        patience: Duration,
    ) -> Result<R::Response, Broken> {
        self.call_version(self.version::<R>(i16::MAX), request, patience)
            .await
    }

    pub async fn call_version<R: Request>(
        &self,
        version: i16,
        request: R,
        patience: Duration,
    ) -> Result<R::Response, Broken> {
        let ticket = self.send(version, &request, patience).await?;
        self.receive(ticket, patience).await
    }

    async fn frame(&self) -> Result<Bytes, Broken> {
        let lost = |error: std::io::Error| Broken(format!("receiving: {error}"));
        let (result, head) = self
            .stream
            .recv_exact_into(Vec::with_capacity(4), 0, 4)
            .await;
        result.map_err(lost)?;
        let len = u32::from_be_bytes(head[..4].try_into().expect("four bytes")) as usize;
        if len > RESPONSE_BYTES_MAX {
            return Err(Broken(format!("MALFORMED: an answer of {len} bytes")));
        }
        let (result, body) = self
            .stream
            .recv_exact_into(Vec::with_capacity(len), 0, len)
            .await;
        result.map_err(lost)?;
        Ok(Bytes::from(body))
    }
}
