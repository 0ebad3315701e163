//! Connections that come in: TLS with a certificate that is read again when it changes, and bounds for whoever floods.
//!
//! Nobody holds up anybody else: a connection is taken, and its handshake goes on beside the next one. Until it has said who it is, it costs little
//! and not for long.

use std::collections::HashMap;
use std::fmt;
use std::future::Future as _;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, MissedTickBehavior, Sleep, sleep, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{self, ServerConfig};
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tonic::transport::server::Connected;

use super::stamp::Stamp;

/// How often the certificate's files are looked at.
const LOOK: Duration = Duration::from_secs(3);

/// How long nothing is taken after the system had no handle for a connection.
const PAUSE: Duration = Duration::from_millis(100);

/// Connections that wait to be served.
const WAITING: usize = 64;

/// Why a certificate is of no use.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file of PEM.
    #[error("{path}: {reason}: a certificate chain and its private key in PEM are needed", path = .path.display())]
    Pem {
        /// Which one.
        path: PathBuf,
        /// What is the matter.
        reason: rustls::pki_types::pem::Error,
    },
    /// They do not belong together, or cannot be used.
    #[error("{certificate} and {key}: {reason}", certificate = .certificate.display(), key = .key.display())]
    Pair {
        /// The chain.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
        /// What is the matter.
        reason: rustls::Error,
    },
}

/// What is spoken over TLS, as ALPN calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `h2`: gRPC.
    Http2,
    /// `http/1.1`: the API.
    Http1,
}

/// The certificate that is served now.
#[derive(Debug)]
struct Served(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Served {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// The two files, as they were when they were looked into.
type Stamps = (Option<Stamp>, Option<Stamp>);

/// A certificate chain and its key, read again when the files change. A pair that is bad, or half replaced, leaves the one before in use.
#[derive(Debug)]
pub struct Certificate {
    certificate: PathBuf,
    key: PathBuf,
    served: Arc<Served>,
    seen: Mutex<(Stamps, Option<String>)>,
}

impl Certificate {
    /// Reads the files.
    ///
    /// # Errors
    /// When one cannot be read, or they do not belong together.
    pub fn open(certificate: &Path, key: &Path) -> Result<Arc<Self>, TlsError> {
        let stamps = (Stamp::of(certificate), Stamp::of(key));
        let pair = read_pair(certificate, key)?;
        Ok(Arc::new(Self {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            served: Arc::new(Served(RwLock::new(Arc::new(pair)))),
            seen: Mutex::new((stamps, None)),
        }))
    }

    /// Looks at the files, and reads them if they have changed. Two calls of `stat` where they have not.
    pub fn refresh(&self) {
        let mut seen = lock(&self.seen);
        let now = (Stamp::of(&self.certificate), Stamp::of(&self.key));
        if seen.0 == now {
            return;
        }
        match read_pair(&self.certificate, &self.key) {
            Ok(pair) => {
                *self.served.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(pair);
                *seen = (now, None);
            }
            Err(error) => *seen = (now, Some(format!("{error}; the certificate that was read before is used"))),
        }
    }

    /// What is wrong with the files, if anything is.
    pub fn problem(&self) -> Option<String> {
        lock(&self.seen).1.clone()
    }

    /// How TLS is spoken with it.
    ///
    /// # Errors
    /// When the provider of cryptography lacks what TLS needs; ring does not.
    pub fn config(&self, protocol: Protocol) -> Result<ServerConfig, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&self.served) as Arc<dyn ResolvesServerCert>);
        let name: &[u8] = match protocol {
            Protocol::Http2 => b"h2",
            Protocol::Http1 => b"http/1.1",
        };
        config.alpn_protocols = vec![name.to_vec()];
        Ok(config)
    }
}

fn read_pair(certificate: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
    let pem = |path: &Path| {
        let path = path.to_owned();
        move |reason| TlsError::Pem { path, reason }
    };
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect).map_err(pem(certificate))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(pem(key))?;
    let provider: CryptoProvider = ring::default_provider();
    CertifiedKey::from_der(chain, private, &provider).map_err(|reason| TlsError::Pair {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        reason,
    })
}

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

/// A lock whose data stays right when somebody panics with it: every change of it is one assignment or call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "nobody has said who is there")));
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
mod tests {
    use std::fs;

    use outcrop_proto::wire::v1;
    use outcrop_proto::wire::v1::collector_server::{Collector, CollectorServer};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpSocket;
    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream as ClientStream;
    use tokio_stream::StreamExt as _;
    use tokio_stream::wrappers::ReceiverStream;
    use tonic::{Request, Response, Status, Streaming};

    use super::*;

    /// A certificate on the disk.
    struct Files(tempfile::TempDir);

    impl Files {
        fn new() -> (Self, String) {
            let files = Self(tempfile::tempdir().unwrap());
            let authority = files.renew();
            (files, authority)
        }

        fn at(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        /// Puts another certificate into the files, and returns what it is trusted by.
        fn renew(&self) -> String {
            let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
            fs::write(self.at("cert"), made.cert.pem()).unwrap();
            fs::write(self.at("key"), made.signing_key.serialize_pem()).unwrap();
            made.cert.pem()
        }

        fn open(&self) -> Arc<Certificate> {
            Certificate::open(&self.at("cert"), &self.at("key")).unwrap()
        }
    }

    async fn listen() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// Connects from an address of the loopback.
    async fn connect(from: &str, to: SocketAddr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
        socket.connect(to).await.unwrap()
    }

    async fn shake(stream: TcpStream, authority: &str) -> io::Result<ClientStream<TcpStream>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        TlsConnector::from(Arc::new(config)).connect("localhost".try_into().unwrap(), stream).await
    }

    /// Sends back what comes, on every connection.
    fn echo(mut incoming: Incoming, identify: bool) -> Arc<Counts> {
        let counts = incoming.counts();
        tokio::spawn(async move {
            while let Some(Ok(connection)) = incoming.next().await {
                if identify {
                    connection.peer.identified();
                }
                tokio::spawn(async move {
                    let (mut from, mut to) = tokio::io::split(connection);
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        counts
    }

    async fn is_echoed(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> bool {
        let mut answer = [0; 4];
        stream.write_all(b"ping").await.is_ok() && stream.read_exact(&mut answer).await.is_ok() && answer == *b"ping"
    }

    #[tokio::test]
    async fn a_new_certificate_is_served_when_its_files_change_and_a_bad_one_never() {
        let (files, old) = Files::new();
        let (listener, address) = listen().await;
        let certificate = files.open();
        let tls = Some((Arc::clone(&certificate), Protocol::Http2));
        echo(Incoming::new(listener, tls, Limits::default()).unwrap(), true);
        let mut before = shake(connect("127.0.0.1", address).await, &old).await.unwrap();

        let new = files.renew();
        certificate.refresh();
        assert_eq!(certificate.problem(), None);
        assert!(is_echoed(&mut shake(connect("127.0.0.1", address).await, &new).await.unwrap()).await);
        assert!(shake(connect("127.0.0.1", address).await, &old).await.is_err());
        assert!(is_echoed(&mut before).await, "who was connected stays so");

        let key = fs::read(files.at("key")).unwrap();
        for (bad, reason) in [(&b"nothing"[..], "PEM"), (b"", "PEM")] {
            fs::write(files.at("key"), bad).unwrap();
            certificate.refresh();
            assert!(certificate.problem().unwrap().contains(reason), "{:?}", certificate.problem());
            assert!(shake(connect("127.0.0.1", address).await, &new).await.is_ok());
        }
        // Half replaced: the key belongs to another certificate.
        let (other, _) = Files::new();
        fs::copy(other.at("key"), files.at("key")).unwrap();
        certificate.refresh();
        assert!(certificate.problem().unwrap().contains("the certificate that was read before is used"));
        assert!(shake(connect("127.0.0.1", address).await, &new).await.is_ok());
        fs::write(files.at("key"), key).unwrap();
        certificate.refresh();
        assert_eq!(certificate.problem(), None);
        assert!(Certificate::open(&files.at("cert"), &other.at("key")).is_err());
    }

    #[tokio::test]
    async fn who_does_not_finish_a_handshake_holds_up_nobody_else() {
        let (files, authority) = Files::new();
        let (listener, address) = listen().await;
        // Never given up: only the bounds help.
        let limits = Limits {
            handshakes: 3,
            handshakes_per_address: 2,
            handshake_within: Duration::from_secs(3600),
            identify_within: None,
            ..Limits::default()
        };
        let counts = echo(Incoming::new(listener, Some((files.open(), Protocol::Http2)), limits).unwrap(), true);
        let mut silent = Vec::new();
        for _ in 0..100 {
            silent.push(connect("127.0.0.2", address).await);
        }
        for _ in 0..5 {
            let mut stream = shake(connect("127.0.0.1", address).await, &authority).await.unwrap();
            assert!(is_echoed(&mut stream).await);
        }
        assert_eq!(counts.turned_away.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn connections_are_bounded_in_all_and_by_address_and_given_back() {
        let (listener, address) = listen().await;
        let limits = Limits { connections: 3, per_address: 2, ..Limits::default() };
        let counts = echo(Incoming::new(listener, None, limits).unwrap(), true);
        let mut one = connect("127.0.0.1", address).await;
        let mut two = connect("127.0.0.1", address).await;
        assert!(is_echoed(&mut one).await && is_echoed(&mut two).await);
        assert!(!is_echoed(&mut connect("127.0.0.1", address).await).await, "a third of one address");
        let mut other = connect("127.0.0.2", address).await;
        assert!(is_echoed(&mut other).await);
        assert!(!is_echoed(&mut connect("127.0.0.3", address).await).await, "a fourth in all");
        assert_eq!((counts.open.load(Ordering::Relaxed), counts.turned_away.load(Ordering::Relaxed)), (3, 2));
        drop((one, other));
        while counts.open.load(Ordering::Relaxed) > 1 {
            tokio::task::yield_now().await;
        }
        assert!(is_echoed(&mut connect("127.0.0.1", address).await).await);
        drop(two);
        while counts.open.load(Ordering::Relaxed) > 0 {
            tokio::task::yield_now().await;
        }
        assert!(lock(&counts.addresses).is_empty(), "no address is remembered");
    }

    #[tokio::test]
    async fn who_does_not_say_who_it_is_has_to_go_and_who_did_stays() {
        let short = Limits { identify_within: Some(Duration::from_millis(100)), ..Limits::default() };
        let (listener, address) = listen().await;
        let counts = echo(Incoming::new(listener, None, short).unwrap(), false);
        let mut stream = connect("127.0.0.1", address).await;
        assert_eq!(stream.read(&mut [0]).await.unwrap_or_default(), 0);
        assert_eq!(counts.unidentified.load(Ordering::Relaxed), 1);

        let (listener, address) = listen().await;
        echo(Incoming::new(listener, None, short).unwrap(), true);
        let mut stream = connect("127.0.0.1", address).await;
        assert!(is_echoed(&mut stream).await);
        sleep(Duration::from_millis(300)).await;
        assert!(is_echoed(&mut stream).await);
    }

    #[test]
    fn addresses_of_one_network_of_ipv6_count_as_one() {
        let same = |one: &str, two: &str| counted_as(one.parse().unwrap()) == counted_as(two.parse().unwrap());
        assert!(same("2001:db8::1", "2001:db8::ffff:1"));
        assert!(!same("2001:db8::1", "2001:db8:0:1::1"));
        assert!(same("::ffff:10.0.0.1", "10.0.0.1"));
        assert!(!same("10.0.0.1", "10.0.0.2"));
    }

    /// A service that tells who calls.
    struct Mirror;

    #[tonic::async_trait]
    impl Collector for Mirror {
        type AttachStream = ReceiverStream<Result<v1::Order, Status>>;

        async fn attach(
            &self,
            request: Request<Streaming<v1::Report>>,
        ) -> Result<Response<Self::AttachStream>, Status> {
            let peer = request.extensions().get::<Peer>().ok_or_else(|| Status::internal("nobody"))?;
            peer.identified();
            Err(Status::aborted(peer.address().ip().to_string()))
        }
    }

    #[tokio::test]
    async fn grpc_and_the_api_are_served_over_it() {
        let (files, authority) = Files::new();
        let (listener, address) = listen().await;
        let incoming = Incoming::new(listener, Some((files.open(), Protocol::Http2)), Limits::default()).unwrap();
        let server = tonic::transport::Server::builder().add_service(CollectorServer::new(Mirror));
        tokio::spawn(server.serve_with_incoming(incoming));
        let tls = tonic::transport::ClientTlsConfig::new()
            .ca_certificate(tonic::transport::Certificate::from_pem(&authority))
            .domain_name("localhost");
        let channel = tonic::transport::Endpoint::from_shared(format!("https://{address}")).unwrap().tls_config(tls);
        let channel = channel.unwrap().connect().await.unwrap();
        let mut client = v1::collector_client::CollectorClient::new(channel);
        let status = client.attach(tokio_stream::empty()).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (tonic::Code::Aborted, "127.0.0.1"));

        let (listener, address) = listen().await;
        let incoming = Incoming::new(listener, Some((files.open(), Protocol::Http1)), Limits::default()).unwrap();
        let routes = axum::Router::new().route("/", axum::routing::get(|| async { "here" }));
        tokio::spawn(async move { axum::serve(incoming, routes).await });
        let mut stream = shake(connect("127.0.0.1", address).await, &authority).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("here"), "{answer}");
    }
}
