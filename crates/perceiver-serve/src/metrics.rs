//! Metrics in the text format that Prometheus reads.

use std::sync::Arc;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// The media type of the text.
pub(crate) const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics of a server; clones share them.
#[derive(Clone)]
pub(crate) struct Metrics {
    registry: Arc<Registry>,
    requests: Family<RequestLabels, Counter>,
    request_seconds: Family<RouteLabels, Histogram, fn() -> Histogram>,
    /// The connections that are open.
    pub(crate) connections: Gauge,
    /// The connections that were one too many.
    pub(crate) refused_connections: Counter,
    /// The images that wait or are being classified.
    pub(crate) queued: Gauge,
    /// The images of each batch.
    pub(crate) batch_images: Histogram,
    /// The seconds that the model takes for a batch.
    pub(crate) batch_seconds: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: String,
    status: Status,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: String,
}

/// An HTTP status as a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Status(u16);

impl EncodeLabelValue for Status {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> Result<(), std::fmt::Error> {
        u64::from(self.0).encode(encoder)
    }
}

/// From a millisecond to a minute.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 17))
}

impl Metrics {
    /// Creates the metrics of a server whose queue has `queue` places.
    pub(crate) fn new(queue: usize) -> Self {
        let mut registry = Registry::with_prefix("perceiver");
        let capacity = Gauge::<i64>::default();
        capacity.set(i64::try_from(queue).unwrap_or(i64::MAX));
        let mut metrics = Self {
            registry: Arc::default(),
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(seconds),
            connections: Gauge::default(),
            refused_connections: Counter::default(),
            queued: Gauge::default(),
            batch_images: Histogram::new(exponential_buckets(1.0, 2.0, 10)),
            batch_seconds: seconds(),
        };
        registry.register("requests", "Answered requests", metrics.requests.clone());
        registry.register_with_unit(
            "request",
            "Time from a request's head to its answer",
            Unit::Seconds,
            metrics.request_seconds.clone(),
        );
        registry.register(
            "connections",
            "Open connections",
            metrics.connections.clone(),
        );
        registry.register(
            "refused_connections",
            "Connections refused because too many were open",
            metrics.refused_connections.clone(),
        );
        registry.register(
            "queued_images",
            "Images that wait to be decoded and classified, or are",
            metrics.queued.clone(),
        );
        registry.register(
            "queue_capacity_images",
            "The most images that may wait",
            capacity,
        );
        registry.register(
            "batch_images",
            "Images per batch",
            metrics.batch_images.clone(),
        );
        registry.register_with_unit(
            "batch",
            "Time of the model for a batch",
            Unit::Seconds,
            metrics.batch_seconds.clone(),
        );
        metrics.registry = Arc::new(registry);
        metrics
    }

    /// Counts an answer.
    pub(crate) fn answered(&self, route: &str, status: u16, seconds: f64) {
        let route = route.to_string();
        let labels = RouteLabels {
            route: route.clone(),
        };
        self.request_seconds.get_or_create(&labels).observe(seconds);
        let labels = RequestLabels {
            route,
            status: Status(status),
        };
        self.requests.get_or_create(&labels).inc();
    }

    /// Returns all metrics as text.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let _ = encode(&mut text, &self.registry); // writing to a String cannot fail
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_batches_are_counted() {
        let metrics = Metrics::new(256);
        for status in [200, 200, 429] {
            metrics.answered("/predict", status, 0.003);
        }
        metrics.batch_images.observe(7.0);
        let text = metrics.text();
        for line in [
            r#"perceiver_requests_total{route="/predict",status="200"} 2"#,
            r#"perceiver_requests_total{route="/predict",status="429"} 1"#,
            r#"perceiver_request_seconds_bucket{le="0.004",route="/predict"} 3"#,
            "perceiver_batch_images_sum 7.0",
            "perceiver_queue_capacity_images 256",
            "# EOF",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} is not in\n{text}"
            );
        }
    }
}
