//! Connections that come in, over TLS or in the clear, with bounds for whoever floods.
//!
//! Nobody holds up anybody else: a connection is taken, and its handshake goes on beside the next one. Until it has said who it is, it costs little
//! and not for long.

use std::collections::HashMap;
use std::fmt;
use std::future::Future as _;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, MissedTickBehavior, Sleep, sleep, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tonic::transport::server::Connected;

use super::tls::{Certificate, Protocol};
use crate::lock::lock;

/// How often the certificate's files are looked at.
const LOOK: Duration = Duration::from_secs(3);

/// How long nothing is taken after the system had no handle for a connection.
const PAUSE: Duration = Duration::from_millis(100);

/// Connections that wait to be served.
const WAITING: usize = 64;

/// How much is taken at a time.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections in all.
    pub connections: usize,
    /// Connections from one address: all nodes behind one translated address together, so half of all.
    pub per_address: usize,
    /// Handshakes at a time; the others wait.
    pub handshakes: usize,
    /// Handshakes of one address at a time.
    pub handshakes_per_address: usize,
    /// How long a handshake may take.
    pub handshake_within: Duration,
    /// How long a connection may wait, shake hands and say who it is, in all: until [`Peer::identified`] is called. Without it a connection
    /// needs to say nothing.
    pub identify_within: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 20_000,
            per_address: 10_000,
            handshakes: 256,
            handshakes_per_address: 64,
            handshake_within: Duration::from_secs(10),
            identify_within: Some(Duration::from_secs(30)),
        }
    }
}

/// How many connections there are, and what became of those that are none.
#[derive(Debug, Default)]
pub struct Counts {
    /// Those that are open now, handshakes included.
    pub open: AtomicU64,
    /// Those that were closed at once, since there were too many.
    pub turned_away: AtomicU64,
    /// Handshakes that came to nothing, or took too long.
    pub failed: AtomicU64,
    /// Those that were closed since they did not say who they were.
    pub unidentified: AtomicU64,
    addresses: Mutex<HashMap<IpAddr, Address>>,
}

/// What comes from one address.
#[derive(Debug)]
struct Address {
    open: usize,
    handshakes: Arc<Semaphore>,
}

/// Whom an address counts for: of IPv6 whoever has a network of 64 bits.
fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        address @ IpAddr::V4(_) => address,
    }
}

/// The right to be connected; it is given back when it is dropped.
struct Slot {
    counts: Arc<Counts>,
    address: IpAddr,
    handshakes: Arc<Semaphore>,
}

impl Slot {
    /// `None` where there are too many.
    fn take(counts: &Arc<Counts>, limits: &Limits, address: IpAddr) -> Option<Self> {
        let address = counted_as(address);
        let mut addresses = lock(&counts.addresses);
        let entry = addresses.entry(address).or_insert_with(|| Address {
            open: 0,
            handshakes: Arc::new(Semaphore::new(limits.handshakes_per_address.max(1))),
        });
        let all = usize::try_from(counts.open.load(Ordering::Relaxed)).unwrap_or(usize::MAX);
        if all >= limits.connections || entry.open >= limits.per_address {
            if entry.open == 0 {
                addresses.remove(&address);
            }
            return None;
        }
        entry.open += 1;
        let handshakes = Arc::clone(&entry.handshakes);
        counts.open.fetch_add(1, Ordering::Relaxed);
        Some(Self { counts: Arc::clone(counts), address, handshakes })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut addresses = lock(&self.counts.addresses);
        self.counts.open.fetch_sub(1, Ordering::Relaxed);
        if let Some(entry) = addresses.get_mut(&self.address) {
            entry.open = entry.open.saturating_sub(1);
            if entry.open == 0 {
                addresses.remove(&self.address);
            }
        }
    }
}

/// Who is at the other end. tonic puts it into a request's extensions.
#[derive(Clone, Debug)]
pub struct Peer {
    address: SocketAddr,
    identified: Arc<AtomicBool>,
}

impl Peer {
    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// It has said who it is, and is believed: its connection may stay.
    pub fn identified(&self) {
        self.identified.store(true, Ordering::Relaxed);
    }
}

enum Channel {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection, in the clear or over TLS.
pub struct Connection {
    channel: Channel,
    peer: Peer,
    /// When it has to have said who it is.
    deadline: Option<Pin<Box<Sleep>>>,
    slot: Slot,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connection").field(&self.peer).finish()
    }
}

impl Connection {
    fn channel(&mut self) -> Pin<&mut dyn Duplex> {
        match &mut self.channel {
            Channel::Plain(stream) => Pin::new(stream),
            Channel::Tls(stream) => Pin::new(&mut **stream),
        }
    }
}

trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.peer.identified.load(Ordering::Relaxed) {
            self.deadline = None;
        }
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            self.slot.counts.unidentified.fetch_add(1, Ordering::Relaxed);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "timed out waiting for authentication")));
        }
        self.channel().poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.channel().poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.channel().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.channel().poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.channel().poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.channel {
            Channel::Plain(stream) => stream.is_write_vectored(),
            Channel::Tls(stream) => stream.is_write_vectored(),
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

/// Connections as they come in, ready to be served: a stream for tonic, a listener for axum. It never ends and never fails.
#[derive(Debug)]
pub struct Incoming {
    connections: mpsc::Receiver<Connection>,
    counts: Arc<Counts>,
    local: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Incoming {
    /// Takes connections from `listener`: over TLS with `certificate`, without one in the clear. To be called in a tokio runtime.
    ///
    /// # Errors
    /// When the listener has no address, or TLS cannot be spoken.
    pub fn new(
        listener: TcpListener,
        certificate: Option<(Arc<Certificate>, Protocol)>,
        limits: Limits,
    ) -> io::Result<Self> {
        let local = listener.local_addr()?;
        let counts = Arc::new(Counts::default());
        let (sender, connections) = mpsc::channel(WAITING);
        let tls = match certificate {
            Some((certificate, protocol)) => {
                let config = certificate.config(protocol).map_err(io::Error::other)?;
                Some((TlsAcceptor::from(Arc::new(config)), certificate))
            }
            None => None,
        };
        let door = Door { counts: Arc::clone(&counts), limits, sender };
        let task = tokio::spawn(door.stand(listener, tls));
        Ok(Self { connections, counts, local, task })
    }

    /// How many there are.
    pub fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.connections.poll_recv(cx).map(|connection| connection.map(Ok))
    }
}

impl axum::serve::Listener for Incoming {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        match self.connections.recv().await {
            Some(connection) => {
                let address = connection.peer.address;
                (connection, address)
            }
            // Only while the runtime ends.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }
}

/// Who takes connections.
struct Door {
    counts: Arc<Counts>,
    limits: Limits,
    sender: mpsc::Sender<Connection>,
}

impl Door {
    async fn stand(self, listener: TcpListener, tls: Option<(TlsAcceptor, Arc<Certificate>)>) {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let shaking = Arc::new(Semaphore::new(self.limits.handshakes.max(1)));
        let (acceptor, certificate) = tls.unzip();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, address)) => self.admit(stream, address, acceptor.clone(), &shaking),
                    // No handle is left, or the other end has gone already: the next one may have more luck.
                    Err(_) => sleep(PAUSE).await,
                },
                _ = look.tick() => {
                    if let Some(certificate) = certificate.clone() {
                        tokio::task::spawn_blocking(move || certificate.refresh());
                    }
                }
                () = self.sender.closed() => return,
            }
        }
    }

    fn admit(&self, stream: TcpStream, address: SocketAddr, acceptor: Option<TlsAcceptor>, all: &Arc<Semaphore>) {
        let Some(slot) = Slot::take(&self.counts, &self.limits, address.ip()) else {
            self.counts.turned_away.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let _ = stream.set_nodelay(true);
        let (limits, sender, all) = (self.limits, self.sender.clone(), Arc::clone(all));
        tokio::spawn(async move {
            let identify_until = limits.identify_within.map(|within| Instant::now() + within);
            let channel = match acceptor {
                None => Some(Channel::Plain(stream)),
                Some(acceptor) => {
                    let shake = async {
                        // First in the own address's line, then in everybody's: no address fills the second.
                        let _of_address = slot.handshakes.acquire().await.ok()?;
                        let _of_all = all.acquire().await.ok()?;
                        timeout(limits.handshake_within, acceptor.accept(stream)).await.ok()?.ok()
                    };
                    let shaken = match identify_until {
                        Some(until) => timeout_at(until, shake).await.ok().flatten(),
                        None => shake.await,
                    };
                    shaken.map(|stream| Channel::Tls(Box::new(stream)))
                }
            };
            let Some(channel) = channel else {
                slot.counts.failed.fetch_add(1, Ordering::Relaxed);
                return;
            };
            let peer = Peer { address, identified: Arc::default() };
            let deadline = identify_until.map(|until| Box::pin(tokio::time::sleep_until(until)));
            let _ = sender.send(Connection { channel, peer, deadline, slot }).await;
        });
    }
}

/// Allows this process the handles that so many connections need, as far as the system lets it, and tells how many it has.
///
/// # Errors
/// When the limit cannot be changed.
pub fn allow_files(wanted: u64) -> io::Result<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    let most = now.maximum.unwrap_or(u64::MAX);
    let current = now.current.unwrap_or(u64::MAX);
    let raised = wanted.min(most).max(current);
    if raised > current {
        setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum: now.maximum })?;
    }
    Ok(raised)
}

#[cfg(test)]
mod tests;
