//! Placeholder until the simulator's files follow.
use crate::buf::{IoBuf, IoBufMut};
use crate::fs::{DirEntry, FsSpace, Metadata, OpenOptions};
use crate::net::{ListenOptions, SendBufs, Shutdown};
use crate::time::Instant;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
#[derive(Clone)]
pub(crate) struct SimCore(std::rc::Rc<()>);
#[derive(Clone)]
pub(crate) struct SimFile(std::rc::Rc<()>);
pub(crate) struct SharedSimFile(());
pub(crate) struct SimListener(());
pub(crate) struct SimStream(());
pub(crate) struct SimRecvBuf(());
pub(crate) const SECTOR: usize = 512;
pub(crate) fn abort_node(_reason: &str) -> ! {
    unimplemented!()
}
#[allow(unused_variables)]
impl SimCore {
    pub(crate) fn now(&self) -> Instant {
        unimplemented!()
    }
    pub(crate) fn unix_ms(&self) -> i64 {
        unimplemented!()
    }
    pub(crate) fn random_u64(&self) -> u64 {
        unimplemented!()
    }
    pub(crate) fn should_yield(&self) -> bool {
        unimplemented!()
    }
    pub(crate) async fn open(&self, path: &Path, options: OpenOptions) -> io::Result<SimFile> {
        unimplemented!()
    }
    pub(crate) fn attach(&self, shared: SharedSimFile) -> SimFile {
        unimplemented!()
    }
    pub(crate) async fn create_dir(&self, path: &Path) -> io::Result<()> {
        unimplemented!()
    }
    pub(crate) async fn unlink(&self, path: &Path, dir: bool) -> io::Result<()> {
        unimplemented!()
    }
    pub(crate) async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        unimplemented!()
    }
    pub(crate) async fn sync_dir(&self, path: &Path) -> io::Result<()> {
        unimplemented!()
    }
    pub(crate) async fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        unimplemented!()
    }
    pub(crate) async fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        unimplemented!()
    }
    pub(crate) fn space(&self) -> FsSpace {
        unimplemented!()
    }
    pub(crate) fn listen(
        &self,
        addr: SocketAddr,
        options: &ListenOptions,
    ) -> io::Result<SimListener> {
        unimplemented!()
    }
    pub(crate) async fn connect(&self, addr: SocketAddr) -> io::Result<SimStream> {
        unimplemented!()
    }
}
#[allow(unused_variables)]
impl SimFile {
    pub(crate) async fn read<B: IoBufMut>(
        &self,
        buf: B,
        at: usize,
        pos: u64,
        len: usize,
    ) -> (io::Result<usize>, B) {
        unimplemented!()
    }
    pub(crate) async fn write<B: IoBuf>(
        &self,
        buf: B,
        at: usize,
        pos: u64,
        durable: bool,
    ) -> (io::Result<usize>, B) {
        unimplemented!()
    }
    pub(crate) async fn write_vectored<B: IoBuf>(
        &self,
        bufs: Vec<B>,
        at: usize,
        pos: u64,
        durable: bool,
    ) -> (io::Result<usize>, Vec<B>) {
        unimplemented!()
    }
    pub(crate) async fn sync(&self) -> io::Result<()> {
        unimplemented!()
    }
    pub(crate) async fn allocate(&self, pos: u64, len: u64) -> io::Result<()> {
        unimplemented!()
    }
    pub(crate) async fn truncate(&self, len: u64) -> io::Result<()> {
        unimplemented!()
    }
    pub(crate) async fn size(&self) -> io::Result<u64> {
        unimplemented!()
    }
    pub(crate) fn read_resident<B: IoBufMut>(
        &self,
        buf: B,
        pos: u64,
        len: usize,
    ) -> (io::Result<Option<usize>>, B) {
        unimplemented!()
    }
    pub(crate) fn is_resident(&self, pos: u64, len: u64) -> bool {
        unimplemented!()
    }
    pub(crate) fn lock_exclusive(&self) -> bool {
        unimplemented!()
    }
    pub(crate) fn share(&self) -> SharedSimFile {
        unimplemented!()
    }
}
impl SimListener {
    pub(crate) async fn accept(&self) -> io::Result<SimStream> {
        unimplemented!()
    }
    pub(crate) fn local_addr(&self) -> SocketAddr {
        unimplemented!()
    }
}
#[allow(unused_variables)]
impl SimStream {
    pub(crate) fn peer_addr(&self) -> SocketAddr {
        unimplemented!()
    }
    pub(crate) fn local_addr(&self) -> SocketAddr {
        unimplemented!()
    }
    pub(crate) async fn recv(&self) -> io::Result<SimRecvBuf> {
        unimplemented!()
    }
    pub(crate) async fn recv_exact<B: IoBufMut>(
        &self,
        buf: B,
        from: usize,
        to: usize,
    ) -> (io::Result<()>, B) {
        unimplemented!()
    }
    pub(crate) async fn send_all(&self, bufs: SendBufs) -> io::Result<()> {
        unimplemented!()
    }
    pub(crate) async fn sendfile(&self, file: &SimFile, pos: u64, len: u64) -> io::Result<()> {
        unimplemented!()
    }
    pub(crate) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        unimplemented!()
    }
}
#[allow(unused_variables)]
impl SimRecvBuf {
    pub(crate) fn as_slice(&self) -> &[u8] {
        unimplemented!()
    }
    pub(crate) fn advance(&mut self, count: usize) {
        unimplemented!()
    }
}
