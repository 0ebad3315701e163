//! Export of spans by OTLP over gRPC, where the operator names an endpoint.
//!
//! Spans are exported in batches by a runtime of their own: a collector that is slow or down delays nothing and costs only its spans, which is logged
//! once. Spans carry no secrets: whatever may be logged may be exported, and nothing else.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::trace::{Status, TracerProvider as _};
use opentelemetry::{Array, KeyValue, StringValue, Value};
use opentelemetry_otlp::{WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use outcrop_agent::logging::{ExtraLayer, safe};
use outcrop_proto::escape::{escape, is_treacherous};
use tokio::runtime::{Builder, Runtime};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tracing::{info, warn};

/// Maximum time of one export.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum time of the last export when the process ends.
const LAST: Duration = Duration::from_secs(2);

/// Why spans cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The endpoint is not a URL that can be used.
    #[error("invalid --otlp-endpoint {endpoint:?}: {reason}; expected http://HOST:PORT or https://HOST:PORT")]
    Endpoint {
        /// The endpoint as the operator wrote it.
        endpoint: String,
        /// The cause.
        reason: String,
    },
    /// An endpoint with TLS, without the certificate authority that it is verified with.
    #[error("--otlp-endpoint {0}: no certificate authority to verify it with; pass --otlp-ca FILE")]
    NoAuthority(String),
    /// The file of the certificate authority could not be read.
    #[error("reading --otlp-ca {path}: {source}", path = .path.display())]
    Authority {
        /// The path of the file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The exporter could not be started.
    #[error("starting the export of traces: {0}")]
    Start(String),
}

/// A running export of spans. Dropping it exports what is left, for two seconds at most.
#[derive(Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
    runtime: Option<Runtime>,
}

impl Traces {
    /// Starts the export to `endpoint`. The certificate of an `https` endpoint is verified with `authority`, PEM. Nothing is sent yet, so a collector
    /// that is down is no error.
    ///
    /// # Errors
    /// When the endpoint is not a URL, or its certificate authority cannot be read.
    pub fn start(endpoint: &str, authority: Option<&Path>, cluster: &str) -> Result<Self, TraceError> {
        let invalid = |reason: String| TraceError::Endpoint { endpoint: endpoint.to_owned(), reason };
        let mut target = Endpoint::from_shared(endpoint.to_owned()).map_err(|error| invalid(error.to_string()))?;
        match target.uri().scheme_str() {
            Some("http") => {}
            Some("https") => {
                let path = authority.ok_or_else(|| TraceError::NoAuthority(endpoint.to_owned()))?;
                let pem =
                    std::fs::read(path).map_err(|source| TraceError::Authority { path: path.to_owned(), source })?;
                let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem));
                target = target.tls_config(tls).map_err(|error| invalid(error.to_string()))?;
            }
            _ => return Err(invalid("the scheme is neither http nor https".to_owned())),
        }
        let start = |error: &dyn std::fmt::Display| TraceError::Start(error.to_string());
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("otlp").enable_all().build();
        let runtime = runtime.map_err(|error| start(&error))?;
        let within = runtime.enter();
        let channel = target.connect_timeout(TIMEOUT).timeout(TIMEOUT).connect_lazy();
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_tonic()
            .with_channel(channel)
            .with_timeout(TIMEOUT)
            .build()
            .map_err(|error| start(&error))?;
        drop(within);
        let resource = Resource::builder_empty()
            .with_service_name("outcrop-aggregator")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_attribute(KeyValue::new("k8s.cluster.name", escape(cluster).into_owned()))
            .build();
        let exporter = Logged { exporter, failing: AtomicBool::new(false) };
        let provider = SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(exporter).build();
        Ok(Self { provider, runtime: Some(runtime) })
    }

    /// Returns the layer that passes spans to the export.
    pub fn layer(&self) -> ExtraLayer {
        Box::new(tracing_opentelemetry::layer().with_tracer(self.provider.tracer("outcrop")))
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        let _ = self.provider.shutdown_with_timeout(LAST);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Returns a span in whose texts the characters that could mislead are escaped, as in the log: who shows them may not do so.
fn escaped(mut span: SpanData) -> SpanData {
    let own = |text: &mut Cow<'static, str>| {
        if text.contains(is_treacherous) {
            *text = Cow::Owned(escape(text).into_owned());
        }
    };
    own(&mut span.name);
    if let Status::Error { description } = &mut span.status {
        own(description);
    }
    span.attributes.iter_mut().for_each(escape_value);
    for event in &mut span.events.events {
        own(&mut event.name);
        event.attributes.iter_mut().for_each(escape_value);
    }
    span
}

fn escape_value(attribute: &mut KeyValue) {
    let escaped = |text: &StringValue| StringValue::from(escape(text.as_str()).into_owned());
    match &mut attribute.value {
        Value::String(text) => *text = escaped(text),
        Value::Array(Array::String(texts)) => texts.iter_mut().for_each(|text| *text = escaped(text)),
        _ => {}
    }
}

/// An exporter that logs when it begins to fail and when it works again.
#[derive(Debug)]
struct Logged {
    exporter: opentelemetry_otlp::SpanExporter,
    failing: AtomicBool,
}

impl SpanExporter for Logged {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let result = self.exporter.export(batch.into_iter().map(escaped).collect()).await;
        match &result {
            Ok(()) if self.failing.swap(false, Ordering::Relaxed) => info!("export of traces restored"),
            Ok(()) => {}
            Err(error) if !self.failing.swap(true, Ordering::Relaxed) => {
                let error = error.to_string();
                warn!(error = %safe(&error), "export of traces failed");
            }
            Err(_) => {}
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::mpsc;

    use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
    use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::transport::{Identity, Server, ServerTlsConfig};
    use tonic::{Request, Response};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// A collector that passes on the names of the spans that it receives, with the cluster that sent them, their attributes and their events.
    struct Receiver(mpsc::Sender<(String, String)>);

    #[tonic::async_trait]
    impl TraceService for Receiver {
        async fn export(
            &self,
            request: Request<ExportTraceServiceRequest>,
        ) -> Result<Response<ExportTraceServiceResponse>, tonic::Status> {
            for spans in request.into_inner().resource_spans {
                let resource = format!("{:?}", spans.resource);
                for span in spans.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                    let texts = format!("{resource} {:?} {:?}", span.attributes, span.events);
                    self.0.send((span.name, texts)).unwrap();
                }
            }
            Ok(Response::new(ExportTraceServiceResponse::default()))
        }
    }

    fn collector(tls: Option<ServerTlsConfig>) -> (Runtime, SocketAddr, mpsc::Receiver<(String, String)>) {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, receiver) = mpsc::channel();
        let mut server = Server::builder();
        if let Some(tls) = tls {
            server = server.tls_config(tls).unwrap();
        }
        let server = server.add_service(TraceServiceServer::new(Receiver(sender)));
        runtime.spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        (runtime, address, receiver)
    }

    fn work(traces: &Traces) {
        let subscriber = tracing_subscriber::registry().with(traces.layer());
        tracing::subscriber::with_default(subscriber, || {
            tracing::info_span!("merge", stack = "sha256:00").in_scope(|| tracing::info!("stack merged"));
        });
    }

    #[test]
    fn a_span_reaches_the_collector_in_the_clear_and_over_tls() {
        let (_collector, address, received) = collector(None);
        let traces = Traces::start(&format!("http://{address}"), None, "prod").unwrap();
        work(&traces);
        drop(traces);
        let (name, resource) = received.recv_timeout(Duration::from_secs(60)).unwrap();
        assert_eq!(name, "merge");
        assert!(resource.contains("outcrop-aggregator") && resource.contains("prod"), "{resource}");

        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("ca.crt");
        std::fs::write(&ca, made.cert.pem()).unwrap();
        let identity = Identity::from_pem(made.cert.pem(), made.signing_key.serialize_pem());
        let (_collector, address, received) = collector(Some(ServerTlsConfig::new().identity(identity)));
        let endpoint = format!("https://{address}");
        let traces = Traces::start(&endpoint, Some(&ca), "prod").unwrap();
        work(&traces);
        drop(traces);
        assert_eq!(received.recv_timeout(Duration::from_secs(60)).unwrap().0, "merge");
    }

    #[test]
    fn no_attribute_misleads_whoever_shows_it() {
        let (_collector, address, received) = collector(None);
        let traces = Traces::start(&format!("http://{address}"), None, "prod\u{202e}").unwrap();
        let subscriber = tracing_subscriber::registry().with(traces.layer());
        tracing::subscriber::with_default(subscriber, || {
            let hostile = "x\u{1b}[2J\u{9b}\r\u{202e}";
            tracing::info_span!("merge", image = hostile, shown = %hostile)
                .in_scope(|| tracing::info!(image = %hostile, "{hostile}"));
        });
        drop(traces);
        let (_, texts) = received.recv_timeout(Duration::from_secs(60)).unwrap();
        // The debug format of a text would escape the characters themselves: it escapes the backslash of those that are escaped.
        assert_eq!(texts.matches("x\\\\u{1b}[2J\\\\u{9b}\\\\u{d}\\\\u{202e}").count(), 4, "{texts}");
        assert!(texts.contains("prod\\\\u{202e}"), "{texts}");
    }

    #[test]
    fn an_endpoint_that_cannot_be_used_is_named_with_what_to_do() {
        for (endpoint, says) in [
            ("localhost:4317", "expected http://HOST:PORT"),
            ("ftp://localhost:4317", "neither http nor https"),
            ("", "expected http://HOST:PORT"),
            ("https://localhost:4317", "pass --otlp-ca FILE"),
        ] {
            let error = Traces::start(endpoint, None, "prod").unwrap_err().to_string();
            assert!(error.contains(says), "{endpoint}: {error}");
        }
        let missing = Traces::start("https://localhost:4317", Some(Path::new("/nonexistent/ca")), "prod");
        assert!(missing.unwrap_err().to_string().contains("/nonexistent/ca"));
    }
}
