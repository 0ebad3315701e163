//! Incoming connections, over TLS or plain TCP, with limits against floods.
//!
//! Handshakes run concurrently, so a slow client does not delay others. An unauthenticated connection uses little memory. It is closed after
//! [`Limits::identify_within`], as is one without a call of an authenticated client. Of one client, only a few connections stay open.

use std::collections::HashMap;
use std::fmt;
use std::future::Future as _;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, MissedTickBehavior, Sleep, sleep, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;
use tracing::warn;

use super::tls::{Certificate, Protocol};
use crate::lock::lock;

/// Interval at which the certificate's files are checked for changes.
const REFRESH_INTERVAL: Duration = Duration::from_secs(3);

/// Pause after a connection could not be accepted, for example because the process has too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Maximum number of connections that wait for the server to accept them.
const QUEUE: usize = 64;

/// Maximum number of connections of one authenticated client. An agent has one, and may leave others behind when its network breaks.
const PER_CLIENT: usize = 8;

/// Minimum time between two log events about closed connections.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Limits for connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maximum number of connections.
    pub connections: usize,
    /// Maximum number of connections from one address. It is high, because many nodes can share one address behind NAT.
    pub per_address: usize,
    /// Maximum number of concurrent handshakes; further ones wait.
    pub handshakes: usize,
    /// Maximum number of concurrent handshakes from one address.
    pub handshakes_per_address: usize,
    /// Maximum duration of a handshake.
    pub handshake_within: Duration,
    /// Maximum time from accepting a connection until [`Peer::begin`] is called, with the handshake. The connection is closed as well when no
    /// call has been in progress for this time; it may take twice as long. `None` if connections need not be authenticated.
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

/// Numbers of connections.
#[derive(Debug, Default)]
pub struct Counts {
    /// Open connections, including those in a handshake.
    pub open: AtomicU64,
    /// Connections that were closed immediately because a limit was reached.
    pub turned_away: AtomicU64,
    /// Handshakes that failed or timed out.
    pub failed: AtomicU64,
    /// Connections that were closed because they had no call of an authenticated client for too long.
    pub unidentified: AtomicU64,
    /// Connections that were closed because their client opened too many others.
    pub surplus: AtomicU64,
    addresses: Mutex<HashMap<IpAddr, AddressState>>,
    /// Connections by authenticated client, oldest first.
    clients: Mutex<HashMap<String, Vec<Peer>>>,
    /// The client whose connection was closed last because it opened too many others.
    greedy: Mutex<Option<String>>,
}

impl Counts {
    /// Records that `peer` is a connection of `client`, and closes another one if the client has too many: the oldest without a call, or the
    /// oldest.
    fn identify(&self, client: &str, peer: &Peer) {
        let mut clients = lock(&self.clients);
        // The connection may have ended while its client was authenticated.
        if peer.state.close.is_cancelled() {
            return;
        }
        let peers = clients.entry(client.to_owned()).or_default();
        peers.push(peer.clone());
        if peers.len() > PER_CLIENT {
            let idle = peers.iter().position(|peer| peer.state.calls.load(Ordering::Relaxed) == 0);
            peers.remove(idle.unwrap_or(0)).state.close.cancel();
            self.surplus.fetch_add(1, Ordering::Relaxed);
            *lock(&self.greedy) = Some(client.to_owned());
        }
    }

    /// Records that a connection of `client` has ended.
    fn remove(&self, client: &str, peer: &Peer) {
        let mut clients = lock(&self.clients);
        let Some(peers) = clients.get_mut(client) else { return };
        peers.retain(|other| !Arc::ptr_eq(&other.state, &peer.state));
        if peers.is_empty() {
            clients.remove(client);
        }
    }

    /// Returns the address with the most connections, and their number.
    fn busiest(&self) -> Option<(IpAddr, usize)> {
        let addresses = lock(&self.addresses);
        addresses.iter().map(|(address, state)| (*address, state.open)).max_by_key(|(_, open)| *open)
    }
}

/// Logs how many connections were closed, at most once per [`LOG_INTERVAL`].
#[derive(Default)]
struct ClosedLog {
    logged: Option<Instant>,
    /// The counts at that time.
    before: [u64; 4],
}

impl ClosedLog {
    fn log(&mut self, counts: &Counts) {
        let now = Instant::now();
        let all = [&counts.turned_away, &counts.failed, &counts.unidentified, &counts.surplus];
        let all = all.map(|count| count.load(Ordering::Relaxed));
        if all == self.before || self.logged.is_some_and(|at| now.duration_since(at) < LOG_INTERVAL) {
            return;
        }
        let [turned_away, failed, unidentified, surplus]: [u64; 4] =
            std::array::from_fn(|index| all[index] - self.before[index]);
        (self.logged, self.before) = (Some(now), all);
        let (address, from_address) = counts.busiest().unzip();
        let client = lock(&counts.greedy).take();
        warn!(
            turned_away,
            failed,
            unidentified,
            surplus,
            client,
            open = counts.open.load(Ordering::Relaxed),
            address = address.map(tracing::field::display),
            from_address,
            "connections closed"
        );
    }
}

/// The connections of one address.
#[derive(Debug)]
struct AddressState {
    open: usize,
    handshakes: Arc<Semaphore>,
}

/// Returns the key under which an address is counted. One IPv6 client usually owns a whole /64 network, which therefore counts as one.
fn counting_key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        address @ IpAddr::V4(_) => address,
    }
}

/// A place among the allowed connections; dropping it frees the place.
struct Slot {
    counts: Arc<Counts>,
    address: IpAddr,
    handshakes: Arc<Semaphore>,
}

impl Slot {
    /// Returns a slot for a connection from `address`, or `None` if a limit is reached.
    fn acquire(counts: &Arc<Counts>, limits: &Limits, address: IpAddr) -> Option<Self> {
        let address = counting_key(address);
        let mut addresses = lock(&counts.addresses);
        let entry = addresses.entry(address).or_insert_with(|| AddressState {
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

/// The client of a connection. tonic adds it to the extensions of each request.
#[derive(Clone, Debug)]
pub struct Peer {
    address: SocketAddr,
    state: Arc<PeerState>,
}

/// The state that a connection shares with its calls.
#[derive(Debug)]
struct PeerState {
    counts: Arc<Counts>,
    /// The name with which the client authenticated first.
    client: OnceLock<String>,
    /// Number of authenticated calls in progress.
    calls: AtomicUsize,
    /// Whether a call has begun since the deadline was set.
    is_used: AtomicBool,
    /// Closes the connection.
    close: CancellationToken,
}

/// An authenticated call. The connection stays open until it is dropped.
#[derive(Debug)]
#[must_use]
pub struct OpenCall(Arc<PeerState>);

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Peer {
    fn new(address: SocketAddr, counts: Arc<Counts>) -> Self {
        let (calls, is_used, close) = (AtomicUsize::new(0), AtomicBool::new(false), CancellationToken::new());
        Self { address, state: Arc::new(PeerState { counts, client: OnceLock::new(), calls, is_used, close }) }
    }

    /// Returns the address of the client.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Begins a call of a client that authenticated as `client`. If the client has too many connections, another one of them is closed.
    pub fn begin(&self, client: &str) -> OpenCall {
        self.state.calls.fetch_add(1, Ordering::Relaxed);
        self.state.is_used.store(true, Ordering::Relaxed);
        if self.state.client.set(client.to_owned()).is_ok() {
            self.state.counts.identify(client, self);
        }
        OpenCall(Arc::clone(&self.state))
    }
}

enum Channel {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection over TLS or plain TCP.
pub struct Connection {
    channel: Channel,
    peer: Peer,
    /// The time by which the client has to begin a call, and the time until the next deadline.
    deadline: Option<(Pin<Box<Sleep>>, Duration)>,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    slot: Slot,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.peer.state.close.cancel();
        if let Some(client) = self.peer.state.client.get() {
            self.slot.counts.remove(client, &self.peer);
        }
    }
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

    /// Returns an error if the connection has to be closed.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.closed.as_mut().poll(cx).is_ready() {
            let reason = "the client has too many connections";
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, reason));
        }
        while let Some((deadline, next)) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            let state = &self.peer.state;
            if !state.is_used.swap(false, Ordering::Relaxed) && state.calls.load(Ordering::Relaxed) == 0 {
                self.slot.counts.unidentified.fetch_add(1, Ordering::Relaxed);
                let reason = "timed out waiting for an authenticated call";
                return Err(io::Error::new(io::ErrorKind::TimedOut, reason));
            }
            let next = Instant::now() + *next;
            deadline.as_mut().reset(next);
        }
        Ok(())
    }
}

trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        self.channel().poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
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
        // A client that reads nothing must not keep its connection: nothing is read from it either then.
        self.check(cx)?;
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

/// A source of accepted connections with a complete handshake: a stream for tonic, a listener for axum. It never ends and never fails.
#[derive(Debug)]
pub struct Incoming {
    connections: mpsc::Receiver<Connection>,
    counts: Arc<Counts>,
    local: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Incoming {
    /// Accepts connections of `listener`, over TLS if there is a certificate. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// When the listener has no address, or the TLS configuration is invalid.
    pub fn new(
        listener: TcpListener,
        certificate: Option<(Arc<Certificate>, Protocol)>,
        limits: Limits,
    ) -> io::Result<Self> {
        let local = listener.local_addr()?;
        let counts = Arc::new(Counts::default());
        let (sender, connections) = mpsc::channel(QUEUE);
        let tls = match certificate {
            Some((certificate, protocol)) => {
                let config = certificate.config(protocol).map_err(io::Error::other)?;
                Some((TlsAcceptor::from(Arc::new(config)), certificate))
            }
            None => None,
        };
        let acceptor = Acceptor { counts: Arc::clone(&counts), limits, sender };
        let task = tokio::spawn(acceptor.run(listener, tls));
        Ok(Self { connections, counts, local, task })
    }

    /// Returns the numbers of connections.
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
            // The task ends only when the runtime shuts down.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }
}

/// The task that accepts connections.
struct Acceptor {
    counts: Arc<Counts>,
    limits: Limits,
    sender: mpsc::Sender<Connection>,
}

impl Acceptor {
    async fn run(self, listener: TcpListener, tls: Option<(TlsAcceptor, Arc<Certificate>)>) {
        let mut refresh = tokio::time::interval(REFRESH_INTERVAL);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let handshakes = Arc::new(Semaphore::new(self.limits.handshakes.max(1)));
        let (tls_acceptor, certificate) = tls.unzip();
        let mut closed = ClosedLog::default();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, address)) => self.admit(stream, address, tls_acceptor.clone(), &handshakes),
                    // The process has too many open files, or the client has disconnected already: the next connection may succeed.
                    Err(_) => sleep(ACCEPT_PAUSE).await,
                },
                _ = refresh.tick() => {
                    closed.log(&self.counts);
                    if let Some(certificate) = certificate.clone() {
                        tokio::task::spawn_blocking(move || certificate.refresh());
                    }
                }
                () = self.sender.closed() => return,
            }
        }
    }

    fn admit(&self, stream: TcpStream, address: SocketAddr, acceptor: Option<TlsAcceptor>, all: &Arc<Semaphore>) {
        let Some(slot) = Slot::acquire(&self.counts, &self.limits, address.ip()) else {
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
                    let handshake = async {
                        // The permit of the address comes first, so that one address cannot hold all permits of the second kind.
                        let _of_address = slot.handshakes.acquire().await.ok()?;
                        let _of_all = all.acquire().await.ok()?;
                        timeout(limits.handshake_within, acceptor.accept(stream)).await.ok()?.ok()
                    };
                    let stream = match identify_until {
                        Some(until) => timeout_at(until, handshake).await.ok().flatten(),
                        None => handshake.await,
                    };
                    stream.map(|stream| Channel::Tls(Box::new(stream)))
                }
            };
            let Some(channel) = channel else {
                slot.counts.failed.fetch_add(1, Ordering::Relaxed);
                return;
            };
            let peer = Peer::new(address, Arc::clone(&slot.counts));
            let deadline = identify_until.map(|until| Box::pin(tokio::time::sleep_until(until)));
            let deadline = deadline.zip(limits.identify_within);
            let closed = Box::pin(peer.state.close.clone().cancelled_owned());
            let _ = sender.send(Connection { channel, peer, deadline, closed, slot }).await;
        });
    }
}

/// Raises this process's limit of open files to `wanted`, or to the hard limit if that is lower. Returns the new limit.
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
