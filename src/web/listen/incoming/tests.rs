//! Tests with real sockets and misbehaving clients.

use std::fs;
use std::path::PathBuf;

use outcrop_proto::wire::v1;
use outcrop_proto::wire::v1::collector_server::{Collector, CollectorServer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream as ClientStream;
use tokio_rustls::rustls;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::*;

/// Files of a certificate and its key.
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

    /// Writes a new certificate to the files and returns the CA certificate that verifies it.
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

/// Connects from a loopback address.
async fn connect(from: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
    socket.connect(to).await.unwrap()
}

async fn handshake(stream: TcpStream, authority: &str) -> io::Result<ClientStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config)).connect("localhost".try_into().unwrap(), stream).await
}

/// Echoes the data of every connection.
fn echo(mut incoming: Incoming, identify: bool) -> Arc<Counts> {
    let counts = incoming.counts();
    tokio::spawn(async move {
        while let Some(Ok(connection)) = incoming.next().await {
            // Each is a client of its own.
            let client = connection.peer.address.to_string();
            tokio::spawn(async move {
                let _call = identify.then(|| connection.peer.begin(&client));
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
    let mut before = handshake(connect("127.0.0.1", address).await, &old).await.unwrap();

    let new = files.renew();
    certificate.refresh();
    assert_eq!(certificate.problem(), None);
    assert!(is_echoed(&mut handshake(connect("127.0.0.1", address).await, &new).await.unwrap()).await);
    assert!(handshake(connect("127.0.0.1", address).await, &old).await.is_err());
    assert!(is_echoed(&mut before).await, "a new certificate closed an existing connection");

    let key = fs::read(files.at("key")).unwrap();
    for (bad, reason) in [(&b"nothing"[..], "PEM"), (b"", "PEM")] {
        fs::write(files.at("key"), bad).unwrap();
        certificate.refresh();
        assert!(certificate.problem().unwrap().contains(reason), "{:?}", certificate.problem());
        assert!(handshake(connect("127.0.0.1", address).await, &new).await.is_ok());
    }
    // Half replaced: the key belongs to another certificate.
    let (other, _) = Files::new();
    fs::copy(other.at("key"), files.at("key")).unwrap();
    certificate.refresh();
    assert!(certificate.problem().unwrap().contains("the last valid certificate stays in use"));
    assert!(handshake(connect("127.0.0.1", address).await, &new).await.is_ok());
    fs::write(files.at("key"), key).unwrap();
    certificate.refresh();
    assert_eq!(certificate.problem(), None);
    assert!(Certificate::open(&files.at("cert"), &other.at("key")).is_err());
}

#[tokio::test]
async fn unfinished_handshakes_do_not_delay_other_clients() {
    let (files, authority) = Files::new();
    let (listener, address) = listen().await;
    // No handshake times out during the test, so only the limits per address protect other clients.
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
        let mut stream = handshake(connect("127.0.0.1", address).await, &authority).await.unwrap();
        assert!(is_echoed(&mut stream).await);
    }
    assert_eq!(counts.turned_away.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn connections_are_limited_in_total_and_by_address_and_closing_one_frees_its_place() {
    let (listener, address) = listen().await;
    let limits = Limits { connections: 3, per_address: 2, ..Limits::default() };
    let counts = echo(Incoming::new(listener, None, limits).unwrap(), true);
    let mut one = connect("127.0.0.1", address).await;
    let mut two = connect("127.0.0.1", address).await;
    assert!(is_echoed(&mut one).await && is_echoed(&mut two).await);
    assert!(!is_echoed(&mut connect("127.0.0.1", address).await).await, "a third connection of one address");
    let mut other = connect("127.0.0.2", address).await;
    assert!(is_echoed(&mut other).await);
    assert!(!is_echoed(&mut connect("127.0.0.3", address).await).await, "a fourth connection in total");
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
    assert!(lock(&counts.addresses).is_empty(), "an address without connections uses memory");
}

#[tokio::test]
async fn a_connection_that_does_not_authenticate_in_time_is_closed() {
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

/// Keeps every connection open, and begins a call of the client `greedy` on each, which lasts as long as the test holds it.
async fn call(incoming: &mut Incoming) -> (OpenCall, tokio::task::JoinHandle<io::Result<u64>>) {
    let connection = incoming.next().await.unwrap().unwrap();
    let call = connection.peer.begin("greedy");
    let reading = tokio::spawn(async move {
        let (mut from, mut to) = tokio::io::split(connection);
        tokio::io::copy(&mut from, &mut to).await
    });
    (call, reading)
}

#[tokio::test]
async fn a_connection_is_closed_when_its_last_call_has_ended_for_a_while() {
    let short = Limits { identify_within: Some(Duration::from_millis(100)), ..Limits::default() };
    let (listener, address) = listen().await;
    let mut incoming = Incoming::new(listener, None, short).unwrap();
    let mut stream = connect("127.0.0.1", address).await;
    let (call, _) = call(&mut incoming).await;
    sleep(Duration::from_millis(400)).await;
    assert!(is_echoed(&mut stream).await, "a call is in progress");
    drop(call);
    // Silence does not keep it open, nor does anything that is not a call.
    let closed = async { while is_echoed(&mut stream).await {} };
    timeout(Duration::from_secs(20), closed).await.unwrap();
    assert_eq!(incoming.counts().unidentified.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn one_client_has_few_connections_and_keeps_those_with_calls() {
    let (listener, address) = listen().await;
    let mut incoming = Incoming::new(listener, None, Limits::default()).unwrap();
    let counts = incoming.counts();
    let mut busy = connect("127.0.0.1", address).await;
    let (first, _) = call(&mut incoming).await;
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(connect("127.0.0.1", address).await);
        drop(call(&mut incoming).await);
    }
    let surplus = counts.surplus.load(Ordering::Relaxed);
    assert_eq!(surplus, 101 - PER_CLIENT as u64);
    while counts.open.load(Ordering::Relaxed) > PER_CLIENT as u64 {
        tokio::task::yield_now().await;
    }
    assert!(is_echoed(&mut busy).await, "the oldest has a call");
    assert!(!is_echoed(&mut idle[0]).await && is_echoed(&mut idle[99]).await);
    // If all are busy, the newest wins: what is left behind by a broken network may look busy.
    let mut all = vec![first];
    for _ in 0..PER_CLIENT {
        idle.push(connect("127.0.0.1", address).await);
        all.push(call(&mut incoming).await.0);
    }
    assert!(!is_echoed(&mut busy).await);
    drop((busy, idle));
    while counts.open.load(Ordering::Relaxed) > 0 {
        tokio::task::yield_now().await;
    }
    assert!(lock(&counts.clients).is_empty(), "a client without connections uses memory");
}

#[test]
fn addresses_of_one_ipv6_network_count_as_one() {
    let same = |one: &str, two: &str| counting_key(one.parse().unwrap()) == counting_key(two.parse().unwrap());
    assert!(same("2001:db8::1", "2001:db8::ffff:1"));
    assert!(!same("2001:db8::1", "2001:db8:0:1::1"));
    assert!(same("::ffff:10.0.0.1", "10.0.0.1"));
    assert!(!same("10.0.0.1", "10.0.0.2"));
}

/// A service that returns the client's address.
struct Mirror;

#[tonic::async_trait]
impl Collector for Mirror {
    type AttachStream = ReceiverStream<Result<v1::Order, Status>>;

    async fn attach(&self, request: Request<Streaming<v1::Report>>) -> Result<Response<Self::AttachStream>, Status> {
        let peer = request.extensions().get::<Peer>().ok_or_else(|| Status::internal("no peer"))?;
        let _call = peer.begin("a");
        Err(Status::aborted(peer.address().ip().to_string()))
    }

    async fn deliver(&self, _: Request<Streaming<v1::Piece>>) -> Result<Response<v1::Stored>, Status> {
        Err(Status::unimplemented("deliver"))
    }
}

#[tokio::test]
async fn grpc_and_http_are_served_over_tls() {
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
    let mut stream = handshake(connect("127.0.0.1", address).await, &authority).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("here"), "{answer}");
}
