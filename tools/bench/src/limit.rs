//! The machine's limit: a server that does nothing but the system calls that a durable broker cannot do without, on the
//! same runtime and cores, under the same load. Produce: receive, CRC-32C, one O_DIRECT + DSYNC write, a fixed answer.
//! Consume: sendfile of a file that is resident.
//!
//! Requests that arrive while a write is under way share the next one, as group commit does.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use trireme_runtime::buf::AlignedBuf;
use trireme_runtime::fs::{self, File, OpenOptions};
use trireme_runtime::net::{ListenOptions, TcpListener, TcpStream};
use trireme_runtime::sync::{Notify, OneSender, oneshot};
use trireme_runtime::{NodeConfig, PerCore, run_node, spawn};

use crate::batch::{BatchMaker, Compression, Stamp};
use crate::consume::{self, ConsumeArgs, Range};
use crate::produce::{self, ProduceArgs};
use crate::server::Server;
use crate::{consumed, measure, produced};

/// The file that writes go to, again and again: like a recycled commit log.
const LOG_BYTES: u64 = 64 << 20;
const WRITE_BYTES: usize = 1 << 20;
/// What one fetch is answered with, and how many batches the file holds.
const FETCH_BYTES: usize = 1 << 20;
const FILE_BYTES: usize = 256 << 20;

#[derive(clap::Args)]
pub struct LimitArgs {
    #[command(flatten)]
    produce: ProduceArgs,
    /// Cores of the bare server
    #[arg(long, default_value_t = 1)]
    cores: usize,
    /// Where it writes: put it on the disk that the broker would use
    #[arg(long, default_value = "./limit-data")]
    dir: PathBuf,
}

#[derive(clap::Args)]
pub struct ServerArgs {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    cores: usize,
    #[arg(long)]
    dir: PathBuf,
    #[arg(long)]
    record_size: usize,
    #[arg(long)]
    batch_bytes: usize,
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn run(args: &LimitArgs, json: bool) -> Result<()> {
    ensure!(
        args.produce.compression == Compression::None,
        "the limit is measured without compression"
    );
    std::fs::create_dir_all(&args.dir)?;
    let port = std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port();
    let address = format!("127.0.0.1:{port}");
    let child = Command::new(std::env::current_exe()?)
        .args([
            "limit-server",
            "--listen",
            &address,
            "--cores",
            &args.cores.to_string(),
        ])
        .args([
            "--record-size",
            &args.produce.record_size.to_string(),
            "--batch-bytes",
            &args.produce.batch_bytes.to_string(),
        ])
        .arg("--dir")
        .arg(&args.dir)
        .stdin(Stdio::piped())
        .spawn()?;
    let child = Running(child);
    let deadline = Instant::now() + Duration::from_secs(30);
    while crate::wire::connect(&address).is_err() {
        ensure!(Instant::now() < deadline, "the bare server did not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    let server = Server::find(Some(child.0.id()), &address, None);
    let partitions = args.produce.connections.max(1) as i32;
    let (sent, window) = measure(&server, |start| {
        produce::run(&address, "limit", partitions, &args.produce, start)
    })?;
    let what = format!(
        "limit: receive, CRC-32C, O_DIRECT + DSYNC write, reply; {} core(s)",
        args.cores
    );
    produced(what, &sent, &window)?.print(json);

    let maker = BatchMaker::new(
        args.produce.record_size,
        args.produce.batch_bytes,
        Compression::None,
    )?;
    let (batch_len, per_file) = file_shape(&maker)?;
    let ranges = [Range {
        partition: 0,
        next: 0,
        end: (per_file * maker.records()) as i64,
    }];
    let fetch = ConsumeArgs {
        consumers: 1,
        partition_bytes: FETCH_BYTES as i32,
        fetch_bytes: FETCH_BYTES as i32,
        max_wait_ms: 500,
        verify: false,
    };
    let rounds = (args.produce.records / (per_file * maker.records()) as u64).max(1);
    let (got, window) = measure(&server, |_| {
        let mut all = consume::run(&address, "limit", &ranges, &fetch, None)?;
        for _ in 1..rounds {
            let more = consume::run(&address, "limit", &ranges, &fetch, None)?;
            all.records += more.records;
            all.batches += more.batches;
            all.bytes += more.bytes;
        }
        Ok(all)
    })?;
    consumed(
        format!("limit: sendfile of resident batches of {batch_len} B"),
        &got,
        &window,
    )
    .print(json);
    drop(child);
    std::fs::remove_dir_all(&args.dir).with_context(|| format!("removing {}", args.dir.display()))
}

/// Length of a batch, and how many of them the file holds.
fn file_shape(maker: &BatchMaker) -> Result<(usize, usize)> {
    let mut one = Vec::new();
    maker.append(
        &mut one,
        Stamp {
            producer: 0,
            sequence: 0,
            due_ns: 0,
        },
        u64::MAX,
        0,
    )?;
    Ok((one.len(), (FILE_BYTES / one.len()).max(1)))
}

pub fn serve(args: &ServerArgs) -> Result<()> {
    let maker = BatchMaker::new(args.record_size, args.batch_bytes, Compression::None)?;
    let (batch_len, per_file) = file_shape(&maker)?;
    let mut content = Vec::with_capacity(batch_len * per_file);
    for n in 0..per_file {
        let sequence = (n * maker.records()) as u64;
        let start = content.len();
        maker.append(
            &mut content,
            Stamp {
                producer: 0,
                sequence,
                due_ns: 0,
            },
            u64::MAX,
            0,
        )?;
        content[start..start + 8].copy_from_slice(&sequence.to_be_bytes());
    }
    let file = args.dir.join("batches");
    std::fs::write(&file, &content)?;
    drop(content);
    let shape = Shape {
        batch_len,
        per_file,
        records: maker.records(),
    };
    // Whoever started this holds the other end: however that one ends, this one does not stay behind.
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    let (dir, listen) = (args.dir.clone(), args.listen);
    let unit = PerCore::new((0..args.cores).map(|_| (dir.clone(), file.clone(), shape)));
    run_node(NodeConfig::with_cores(args.cores), move |core| {
        let (dir, file, shape) = unit.take(core);
        async move {
            if let Err(error) = core_main(core, listen, dir, file, shape).await {
                eprintln!("limit server: {error:#}");
                std::process::exit(1);
            }
        }
    })?;
    Ok(())
}

#[derive(Clone, Copy)]
struct Shape {
    batch_len: usize,
    per_file: usize,
    records: usize,
}

async fn core_main(
    core: usize,
    listen: SocketAddr,
    dir: PathBuf,
    file: PathBuf,
    shape: Shape,
) -> Result<()> {
    let log = Rc::new(Log::create(dir.join(format!("log-{core}"))).await?);
    spawn(log.clone().run()).detach();
    let file = File::open(&file, OpenOptions::READ).await?;
    let listener = TcpListener::bind(listen, &ListenOptions::default())?;
    loop {
        let (stream, _) = listener.accept().await?;
        let (log, file) = (log.clone(), file.clone());
        spawn(async move {
            let _ = connection(Rc::new(stream), log, file, shape).await;
        })
        .detach();
    }
}

/// One write at a time; what waits meanwhile goes out together.
struct Log {
    file: File,
    waiting: RefCell<Vec<(Bytes, OneSender<()>)>>,
    more: Notify,
}

impl Log {
    async fn create(path: PathBuf) -> Result<Log> {
        let file = File::open(&path, OpenOptions::CREATE.direct()).await?;
        for at in (0..LOG_BYTES).step_by(WRITE_BYTES) {
            file.write_all_at(AlignedBuf::zeroed(WRITE_BYTES), at)
                .await
                .0?;
        }
        file.sync_all().await?;
        fs::sync_dir(path.parent().context("a directory")?).await?;
        Ok(Log {
            file,
            waiting: RefCell::default(),
            more: Notify::new(),
        })
    }

    async fn run(self: Rc<Self>) {
        let mut at = 0;
        let mut buffer = AlignedBuf::zeroed(WRITE_BYTES);
        loop {
            if self.waiting.borrow().is_empty() {
                self.more.notified().await;
                continue;
            }
            let batch = std::mem::take(&mut *self.waiting.borrow_mut());
            let mut done = Vec::with_capacity(batch.len());
            let mut used = 0;
            for (bytes, answer) in batch {
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    if used == WRITE_BYTES {
                        buffer = self.write(buffer, &mut at, &mut used).await;
                    }
                    let n = rest.len().min(WRITE_BYTES - used);
                    buffer[used..used + n].copy_from_slice(&rest[..n]);
                    (used, rest) = (used + n, &rest[n..]);
                }
                done.push(answer);
            }
            if used > 0 {
                buffer = self.write(buffer, &mut at, &mut used).await;
            }
            done.into_iter().for_each(|answer| {
                let _ = answer.send(());
            });
        }
    }

    async fn write(&self, mut buffer: AlignedBuf, at: &mut u64, used: &mut usize) -> AlignedBuf {
        let len = used.next_multiple_of(trireme_runtime::ALIGN);
        if *at + len as u64 > LOG_BYTES {
            *at = 0;
        }
        buffer.truncate(len);
        let (result, mut buffer) = self.file.write_durable_at(buffer, *at).await;
        result.expect("the limit's log is on a disk with room");
        *at += len as u64;
        *used = 0;
        buffer.set_len(WRITE_BYTES);
        buffer
    }
}

async fn connection(
    stream: Rc<TcpStream>,
    log: Rc<Log>,
    file: File,
    shape: Shape,
) -> std::io::Result<()> {
    let (answers, mut ready) =
        trireme_runtime::sync::unbounded::<(i32, trireme_runtime::sync::OneReceiver<()>)>();
    let writer = stream.clone();
    spawn(async move {
        while let Some((correlation, durable)) = ready.recv().await {
            if durable.await.is_err() {
                return;
            }
            // correlation id, no topics, no throttling
            let mut answer = Vec::with_capacity(16);
            answer.extend_from_slice(&12u32.to_be_bytes());
            answer.extend_from_slice(&correlation.to_be_bytes());
            answer.extend_from_slice(&[0; 8]);
            if writer.send_all(vec![Bytes::from(answer)]).await.is_err() {
                return;
            }
        }
    })
    .detach();
    loop {
        let (result, head) = stream.recv_exact_into(vec![0u8; 4], 0, 4).await;
        result?;
        let len = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let (result, frame) = stream
            .recv_exact_into(Vec::with_capacity(len), 0, len)
            .await;
        result?;
        let correlation = i32::from_be_bytes([frame[4], frame[5], frame[6], frame[7]]);
        if frame[..2] == 0i16.to_be_bytes() {
            std::hint::black_box(crc_fast::crc32_iscsi(&frame));
            let (done, durable) = oneshot();
            log.waiting.borrow_mut().push((frame.into(), done));
            log.more.notify_one();
            if answers.try_send((correlation, durable)).is_err() {
                return Ok(());
            }
        } else {
            fetch(&stream, &file, shape, correlation, &frame).await?;
        }
    }
}

/// Answers Fetch 11 for partition 0 from the file: the offset stands at a fixed place in the generator's requests.
async fn fetch(
    stream: &TcpStream,
    file: &File,
    shape: Shape,
    correlation: i32,
    frame: &[u8],
) -> std::io::Result<()> {
    // header 8 + client id 2+13, then 29 bytes up to the topics, 1 topic "limit", 1 partition, its index and epoch
    const OFFSET_AT: usize = 8 + 15 + 4 + 4 + 4 + 4 + 1 + 4 + 4 + 4 + 7 + 4 + 4 + 4;
    let offset = i64::from_be_bytes(
        frame[OFFSET_AT..OFFSET_AT + 8]
            .try_into()
            .expect("eight bytes"),
    );
    let batch = (offset as usize / shape.records).min(shape.per_file);
    let count = (FETCH_BYTES / shape.batch_len)
        .max(1)
        .min(shape.per_file - batch);
    let bytes = count * shape.batch_len;
    let mut head = Vec::with_capacity(96);
    head.extend_from_slice(&[0; 4]);
    head.extend_from_slice(&correlation.to_be_bytes());
    head.extend_from_slice(&[0; 4 + 2 + 4]);
    head.extend_from_slice(&1i32.to_be_bytes());
    head.extend_from_slice(&5i16.to_be_bytes());
    head.extend_from_slice(b"limit");
    head.extend_from_slice(&1i32.to_be_bytes());
    head.extend_from_slice(&[0; 4 + 2 + 8 + 8 + 8]);
    head.extend_from_slice(&0i32.to_be_bytes());
    head.extend_from_slice(&(-1i32).to_be_bytes());
    head.extend_from_slice(&(bytes as i32).to_be_bytes());
    let len = (head.len() - 4 + bytes) as u32;
    head[..4].copy_from_slice(&len.to_be_bytes());
    stream.send_all(vec![Bytes::from(head)]).await?;
    stream
        .sendfile(file, (batch * shape.batch_len) as u64, bytes as u64)
        .await
}
