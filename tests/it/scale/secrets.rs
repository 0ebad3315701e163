//! The log contains no secret at any level.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use super::load::runtime;
use super::node::{Fleet, Stream, endpoint, node_name};
use super::service::{Service, token, until};
use super::world::{Shape, World};

const OUTCROP: &str = env!("CARGO_BIN_EXE_outcrop");

/// An API server that tells the identity of the cluster and refuses every other request.
fn refusing_api_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = [0; 8192];
            let length = stream.read(&mut request).unwrap_or(0);
            if request[..length].starts_with(b"GET /api/v1/namespaces/kube-system") {
                let body = r#"{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{"name":"kube-system","uid":"1"}}"#;
                let length = body.len();
                let head = "content-type: application/json\r\nconnection: close";
                let _ = write!(stream, "HTTP/1.1 200 OK\r\n{head}\r\ncontent-length: {length}\r\n\r\n{body}");
                continue;
            }
            let body = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","message":"Unauthorized","reason":"Unauthorized","code":401}"#;
            let length = body.len();
            let _ = write!(
                stream,
                "HTTP/1.1 401 Unauthorized\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
            );
        }
    });
    port
}

fn api_request(service: &Service, path: &str, bearer: &str) -> u16 {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let url = format!("http://{}{path}", service.api);
    let request = agent.get(url).header("authorization", format!("Bearer {bearer}"));
    request.header("cookie", "session=secret-of-a-cookie").call().map_or(0, |answer| answer.status().as_u16())
}

#[test]
fn the_log_of_a_run_full_of_secrets_holds_none_at_the_finest_level() {
    let shape = Shape::SMALL;
    let dir = tempfile::tempdir().unwrap();
    let tokens = dir.path().join("api-tokens");
    let created = Command::new(OUTCROP).args(["token", "new", "--api", "someone", "--tokens"]).arg(&tokens).output();
    let api_token = String::from_utf8(created.unwrap().stdout).unwrap().trim().to_owned();
    let kubeconfig = dir.path().join("kubeconfig");
    let port = refusing_api_server();
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         clusters: [{{name: c, cluster: {{server: \"http://secret-user:secret-password@127.0.0.1:{port}\"}}}}]\n\
         users: [{{name: u, user: {{token: secret-token-of-kubeconfig}}}}]\n\
         contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n"
    );
    fs::write(&kubeconfig, text).unwrap();
    let arguments =
        ["--kubernetes", "--kubeconfig", &kubeconfig.to_string_lossy(), "--api-tokens", &tokens.to_string_lossy()]
            .map(str::to_owned);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let service = Service::start_logging((0..shape.nodes).map(node_name), &arguments, "trace");

    let runtime = runtime();
    let fleet = Fleet::new(World::new(shape), &service);
    runtime.block_on(async { fleet.start() });
    until("every layer to be stored", Duration::from_secs(120), || fleet.stored().len() == shape.layers);
    let stranger = runtime.block_on(async { Stream::attach(&endpoint(&service), "secret-token-of-a-stranger").await });
    assert!(stranger.is_err(), "the token of a stranger is refused");
    for path in ["/api/v1/status", "/api/v1/containers", "/metrics", "/api/v1/advisories/CVE-1"] {
        assert!(matches!(api_request(&service, path, &api_token), 200 | 404), "{path}");
        assert_ne!(api_request(&service, path, "secret-token-of-a-caller"), 200, "{path}");
        api_request(&service, &format!("{path}?token=secret-token-of-a-query"), &api_token);
    }
    fleet.stop();

    let log = fs::read_to_string(service.at("log")).unwrap();
    assert!(log.contains(" DEBUG ") || log.contains(" TRACE "), "the log is at the finest level: {log}");
    let key = fs::read_to_string(service.at("key.pem")).unwrap();
    let key_lines = key.lines().filter(|line| !line.starts_with('-')).map(str::to_owned);
    let mut secrets: Vec<String> = (0..shape.nodes).map(|node| token(&node_name(node))).chain(key_lines).collect();
    secrets.push(token("secret-token-of-a-stranger"));
    secrets.push(api_token);
    secrets.extend(["secret-", "Bearer "].map(str::to_owned));
    for secret in secrets {
        let line = log.lines().find(|line| line.contains(&secret));
        assert_eq!(line, None, "{secret:?} is in the log");
    }
}
