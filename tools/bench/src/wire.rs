//! The little of the Kafka protocol that a load generator needs, at fixed versions which every broker since 2.4 and up to
//! 4.x speaks: Metadata 5, CreateTopics 4, DeleteTopics 3, ListOffsets 3, Produce 7, Fetch 11.
//!
//! Blocking sockets and threads: the generator must cost less than what it measures, and one thread that only writes and
//! one that only reads need no readiness calls.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

pub const PRODUCE: (i16, i16) = (0, 7);
pub const FETCH: (i16, i16) = (1, 11);
const LIST_OFFSETS: (i16, i16) = (2, 3);
const METADATA: (i16, i16) = (3, 5);
const CREATE_TOPICS: (i16, i16) = (19, 4);
const DELETE_TOPICS: (i16, i16) = (20, 3);

/// Largest response we take: far above what we ask for.
const MAX_RESPONSE_BYTES: usize = 256 << 20;
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Builds one request; the length in front is set by [`Request::finish`].
pub struct Request {
    pub bytes: Vec<u8>,
}

impl Request {
    pub fn new(api: (i16, i16), correlation: i32) -> Request {
        let mut request = Request { bytes: vec![0; 4] };
        request.start(api, correlation);
        request
    }

    /// Starts over in the same memory.
    pub fn start(&mut self, api: (i16, i16), correlation: i32) {
        self.bytes.clear();
        self.bytes.extend_from_slice(&[0; 4]);
        self.i16(api.0);
        self.i16(api.1);
        self.i32(correlation);
        self.string("trireme-bench");
    }

    pub fn i8(&mut self, v: i8) {
        self.bytes.push(v as u8);
    }
    pub fn i16(&mut self, v: i16) {
        self.bytes.extend_from_slice(&v.to_be_bytes());
    }
    pub fn i32(&mut self, v: i32) {
        self.bytes.extend_from_slice(&v.to_be_bytes());
    }
    pub fn i64(&mut self, v: i64) {
        self.bytes.extend_from_slice(&v.to_be_bytes());
    }
    pub fn string(&mut self, v: &str) {
        self.i16(v.len() as i16);
        self.bytes.extend_from_slice(v.as_bytes());
    }

    pub fn finish(&mut self) -> &[u8] {
        let len = (self.bytes.len() - 4) as i32;
        self.bytes[..4].copy_from_slice(&len.to_be_bytes());
        &self.bytes
    }
}

/// Reads a response; a short one is an error, never a panic: the broker may be anything.
pub struct Response<'a>(pub &'a [u8]);

impl<'a> Response<'a> {
    pub fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let (head, rest) = self
            .0
            .split_at_checked(n)
            .context("the broker's response is too short")?;
        self.0 = rest;
        Ok(head)
    }
    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into()?)
    }
    pub fn i8(&mut self) -> Result<i8> {
        Ok(i8::from_be_bytes(self.array()?))
    }
    pub fn i16(&mut self) -> Result<i16> {
        Ok(i16::from_be_bytes(self.array()?))
    }
    pub fn i32(&mut self) -> Result<i32> {
        Ok(i32::from_be_bytes(self.array()?))
    }
    pub fn i64(&mut self) -> Result<i64> {
        Ok(i64::from_be_bytes(self.array()?))
    }
    pub fn string(&mut self) -> Result<Option<&'a str>> {
        match self.i16()? {
            -1 => Ok(None),
            n => Ok(Some(std::str::from_utf8(self.take(n as usize)?)?)),
        }
    }
    pub fn bytes(&mut self) -> Result<&'a [u8]> {
        match self.i32()? {
            -1 => Ok(&[]),
            n => self.take(n as usize),
        }
    }
    /// Array length; null counts as empty.
    pub fn len(&mut self) -> Result<usize> {
        Ok(self.i32()?.max(0) as usize)
    }
}

pub fn connect(address: &str) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).with_context(|| {
        format!("no broker at {address}: start one, or name another with --bootstrap")
    })?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(CALL_TIMEOUT))?;
    Ok(stream)
}

/// Receives one response body into `buffer` (the correlation id is its first four bytes).
pub fn receive(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<()> {
    let mut len = [0; 4];
    stream
        .read_exact(&mut len)
        .context("the broker closed the connection or did not answer")?;
    let len = u32::from_be_bytes(len) as usize;
    ensure!(
        (4..=MAX_RESPONSE_BYTES).contains(&len),
        "the broker announced a response of {len} bytes"
    );
    buffer.resize(len, 0);
    stream.read_exact(buffer)?;
    Ok(())
}

/// A connection for administration: one request at a time.
pub struct Admin {
    stream: TcpStream,
    buffer: Vec<u8>,
    correlation: i32,
}

impl Admin {
    pub fn connect(address: &str) -> Result<Admin> {
        Ok(Admin {
            stream: connect(address)?,
            buffer: Vec::new(),
            correlation: 0,
        })
    }

    fn call(&mut self, api: (i16, i16), fill: impl FnOnce(&mut Request)) -> Result<Response<'_>> {
        self.correlation += 1;
        let mut request = Request::new(api, self.correlation);
        fill(&mut request);
        self.stream.write_all(request.finish())?;
        receive(&mut self.stream, &mut self.buffer)?;
        let mut response = Response(&self.buffer);
        ensure!(
            response.i32()? == self.correlation,
            "response to another request"
        );
        Ok(response)
    }

    /// Creates a topic; fails if it exists.
    pub fn create_topic(
        &mut self,
        name: &str,
        partitions: i32,
        configs: &[(String, String)],
    ) -> Result<()> {
        let mut r = self.call(CREATE_TOPICS, |q| {
            q.i32(1);
            q.string(name);
            q.i32(partitions);
            q.i16(1);
            q.i32(0);
            q.i32(configs.len() as i32);
            for (key, value) in configs {
                q.string(key);
                q.string(value);
            }
            q.i32(30_000);
            q.i8(0);
        })?;
        r.i32()?;
        for _ in 0..r.len()? {
            let name = r.string()?;
            let error = r.i16()?;
            let message = r.string()?;
            ensure!(
                error == 0,
                "creating topic {name:?}: error {error} {message:?}"
            );
        }
        Ok(())
    }

    pub fn delete_topic(&mut self, name: &str) -> Result<()> {
        self.call(DELETE_TOPICS, |q| {
            q.i32(1);
            q.string(name);
            q.i32(30_000);
        })?;
        Ok(())
    }

    /// Number of partitions, all led by the broker we talk to (one broker is what this tool measures).
    pub fn partitions(&mut self, name: &str) -> Result<i32> {
        let mut r = self.call(METADATA, |q| {
            q.i32(1);
            q.string(name);
            q.i8(0);
        })?;
        r.i32()?;
        for _ in 0..r.len()? {
            r.i32()?;
            r.string()?;
            r.i32()?;
            r.string()?;
        }
        r.string()?;
        r.i32()?;
        ensure!(r.len()? == 1, "no metadata for {name}");
        let error = r.i16()?;
        ensure!(error == 0, "topic {name}: error {error}");
        r.string()?;
        r.i8()?;
        let count = r.len()?;
        if count == 0 {
            bail!("topic {name} has no partitions");
        }
        Ok(count as i32)
    }

    /// (log start, high watermark) of every partition.
    pub fn offsets(&mut self, name: &str, partitions: i32) -> Result<Vec<(i64, i64)>> {
        let start = self.list_offsets(name, partitions, -2)?;
        let end = self.list_offsets(name, partitions, -1)?;
        Ok(start.into_iter().zip(end).collect())
    }

    fn list_offsets(&mut self, name: &str, partitions: i32, time: i64) -> Result<Vec<i64>> {
        let mut r = self.call(LIST_OFFSETS, |q| {
            q.i32(-1);
            q.i8(0);
            q.i32(1);
            q.string(name);
            q.i32(partitions);
            for partition in 0..partitions {
                q.i32(partition);
                q.i64(time);
            }
        })?;
        r.i32()?;
        let mut offsets = vec![0; partitions as usize];
        for _ in 0..r.len()? {
            r.string()?;
            for _ in 0..r.len()? {
                let (partition, error) = (r.i32()?, r.i16()?);
                r.i64()?;
                ensure!(error == 0, "offsets of {name}-{partition}: error {error}");
                *offsets
                    .get_mut(partition as usize)
                    .context("a partition that was not asked for")? = r.i64()?;
            }
        }
        Ok(offsets)
    }
}
