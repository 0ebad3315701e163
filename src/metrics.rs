//! Metrics that parts of the aggregator observe while they work: durations, sizes and counts of events.
//!
//! States, such as how many nodes are silent, are not kept here: the web module computes them from the status whenever `/metrics` is requested.
//! Every label value is a word of an enum or the template of a route, so that no node, image or caller can create a series.

use std::sync::atomic::AtomicU64;

use outcrop_proto::wire::v1::ReadCost;
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Buckets of work that takes milliseconds to seconds, in seconds.
const WORK: [f64; 11] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Buckets of one write into the store, in seconds.
const WRITES: [f64; 10] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];

/// Buckets of one read of a layer, in seconds.
const READS: [f64; 11] = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0];

/// Longest read of a layer that is observed, milliseconds, and most bytes. Agents report these numbers: one that reports nonsense must not
/// make the sums useless.
const MAX_READ: (u64, u64) = (3_600_000, 1 << 40);

/// A label set with one label.
type OneLabel = [(&'static str, &'static str); 1];

/// A label set with two labels.
type TwoLabels = [(&'static str, &'static str); 2];

/// The metrics that parts of the aggregator observe. Its histograms and counters are handles: a clone observes into the same series.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    layer_read: Histogram,
    layer_size: Histogram,
    /// Duration of merging the inventories of one stack, in seconds.
    pub merge: Histogram,
    /// Duration of matching the packages of one stack against the advisory database, in seconds.
    pub matching: Histogram,
    /// Duration of one write transaction of the store, in seconds.
    pub store_write: Histogram,
    /// Reports after which their node had to wait, because it had used up its budget.
    pub reports_delayed: Counter<u64, AtomicU64>,
    requests: Family<TwoLabels, Counter<u64, AtomicU64>>,
    request_duration: Family<OneLabel, Histogram, fn() -> Histogram>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("outcrop");
        let layer_read = Histogram::new(READS);
        let layer_size = Histogram::new(exponential_buckets(65_536.0, 4.0, 9));
        let [merge, matching] = [Histogram::new(WORK), Histogram::new(WORK)];
        let store_write = Histogram::new(WRITES);
        for (name, help, histogram) in [
            ("layer_read_duration", "Duration of reading one layer, as its agent reported it", &layer_read),
            ("stack_merge_duration", "Duration of merging the inventories of one stack", &merge),
            ("stack_match_duration", "Duration of matching one stack against the advisory database", &matching),
            ("store_write_duration", "Duration of one write transaction of the store", &store_write),
        ] {
            registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        }
        let help = "Size of the evidence that was read from one layer, as its agent reported it";
        registry.register_with_unit("layer_read_size", help, Unit::Bytes, layer_size.clone());
        let reports_delayed = Counter::<u64, AtomicU64>::default();
        let help = "Reports after which their node had to wait, because it had used up its budget";
        registry.register("reports_delayed", help, reports_delayed.clone());
        let requests = Family::<TwoLabels, Counter<u64, AtomicU64>>::default();
        registry.register("http_requests", "Requests to the HTTP API by route and class of status", requests.clone());
        let buckets: fn() -> Histogram = || Histogram::new(WORK);
        let request_duration = Family::new_with_constructor(buckets);
        let help = "Duration of answering one request to the HTTP API by route";
        registry.register_with_unit("http_request_duration", help, Unit::Seconds, request_duration.clone());
        Self {
            registry,
            layer_read,
            layer_size,
            merge,
            matching,
            store_write,
            reports_delayed,
            requests,
            request_duration,
        }
    }
}

impl Metrics {
    /// Observes an accepted read of a layer, as its agent reported it.
    #[expect(clippy::cast_precision_loss, reason = "bounded far below what a double holds exactly")]
    pub fn layer_read(&self, cost: &ReadCost) {
        let (milliseconds, bytes) = MAX_READ;
        self.layer_read.observe(cost.milliseconds.min(milliseconds) as f64 / 1000.0);
        self.layer_size.observe(cost.evidence_bytes.min(bytes) as f64);
    }

    /// Counts one answered request. `route` is the template of a route, never the path of a request; `status` is the HTTP status.
    pub fn request(&self, route: &'static str, status: u16, seconds: f64) {
        let class = match status / 100 {
            1 | 2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            _ => "5xx",
        };
        self.requests.get_or_create(&[("route", route), ("code", class)]).inc();
        self.request_duration.get_or_create(&[("route", route)]).observe(seconds);
    }

    /// Appends every metric in the [OpenMetrics text format](https://prometheus.io/docs/specs/om/open_metrics_spec/), without the end marker.
    ///
    /// # Errors
    /// When `out` does not accept text; a string does.
    pub fn encode(&self, out: &mut String) -> std::fmt::Result {
        encode_registry(out, &self.registry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_observed_is_exposed_with_its_unit() {
        let metrics = Metrics::default();
        metrics.merge.observe(0.02);
        let cost = ReadCost { milliseconds: 250, evidence_bytes: 70_000, ..ReadCost::default() };
        metrics.layer_read(&cost);
        metrics.request("/api/v1/status", 200, 0.002);
        let mut text = String::new();
        metrics.encode(&mut text).unwrap();
        for line in [
            "# TYPE outcrop_stack_merge_duration_seconds histogram",
            "# UNIT outcrop_layer_read_size_bytes bytes",
            "outcrop_stack_merge_duration_seconds_bucket{le=\"0.025\"} 1",
            "outcrop_layer_read_duration_seconds_sum 0.25",
            "outcrop_layer_read_size_bytes_sum 70000.0",
            "outcrop_http_requests_total{route=\"/api/v1/status\",code=\"2xx\"} 1",
            "outcrop_http_request_duration_seconds_bucket{le=\"0.005\",route=\"/api/v1/status\"} 1",
        ] {
            assert!(text.lines().any(|of| of == line), "{line} is missing in:\n{text}");
        }
    }
    #[test]
    fn a_read_that_cannot_be_is_observed_with_a_bound() {
        let metrics = Metrics::default();
        metrics.layer_read(&ReadCost { milliseconds: u64::MAX, evidence_bytes: u64::MAX, ..ReadCost::default() });
        let mut text = String::new();
        metrics.encode(&mut text).unwrap();
        for line in
            ["outcrop_layer_read_duration_seconds_sum 3600.0", "outcrop_layer_read_size_bytes_sum 1099511627776.0"]
        {
            assert!(text.lines().any(|of| of == line), "{line} is missing in:\n{text}");
        }
    }
}
