//! Connections: accepted up to a limit, each with timeouts, and all finished when the server stops.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures_util::FutureExt;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_io_timeout::TimeoutWriter;

use crate::error::{Result, ServeError};
use crate::http::api_error::{ApiError, RETRY_AFTER};
use crate::http::linger;
use crate::limits::{Limits, MAX_HEAD_BYTES, MAX_HEADERS};
use crate::metrics::Metrics;

/// The phases of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Connections are accepted.
    Running,
    /// No more are accepted. Requests that are under way are answered, and the connections then
    /// closed.
    Stopping,
    /// Idle connections are closed.
    Closing,
}

/// The time that requests which were sent when the server stopped have to arrive.
const UNDER_WAY: Duration = Duration::from_millis(500);

/// The pause after a failed accept, as when no file descriptor is left.
const AFTER_FAILURE: Duration = Duration::from_millis(50);

/// The number of refused connections that are still being closed; further ones are reset.
const REFUSED_AT_ONCE: usize = 256;

/// Accepts and serves connections.
pub(crate) struct Connections {
    router: Router,
    limits: Limits,
    metrics: Metrics,
    open: Arc<Semaphore>,
    refused: Arc<Semaphore>,
    phase: watch::Sender<Phase>,
}

impl Connections {
    pub(crate) fn new(
        router: Router,
        limits: &Limits,
        metrics: Metrics,
        phase: watch::Sender<Phase>,
    ) -> Self {
        Self {
            router,
            open: Arc::new(Semaphore::new(limits.connections)),
            refused: Arc::new(Semaphore::new(REFUSED_AT_ONCE)),
            limits: limits.clone(),
            metrics,
            phase,
        }
    }

    /// Serves connections until the phase changes, and then finishes those that are open.
    ///
    /// # Errors
    /// When some are not finished within the limit's time.
    pub(crate) async fn serve(self, listener: TcpListener) -> Result<()> {
        let mut phase = self.phase.subscribe();
        loop {
            tokio::select! {
                biased;
                () = reached(&mut phase, Phase::Stopping) => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => self.take(stream),
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(AFTER_FAILURE).await;
                    }
                }
            }
        }
        // Clients that have connected already take part; later ones are refused by the system.
        while let Some(Ok((stream, _))) = listener.accept().now_or_never() {
            self.take(stream);
        }
        drop(listener);
        self.finish().await
    }

    async fn finish(&self) -> Result<()> {
        let most = self.limits.connections as u32;
        let all = self.open.acquire_many(most);
        tokio::pin!(all);
        if tokio::time::timeout(UNDER_WAY, &mut all).await.is_ok() {
            return Ok(());
        }
        self.phase.send_replace(Phase::Closing);
        let rest = self.limits.stop_timeout.saturating_sub(UNDER_WAY);
        match tokio::time::timeout(rest, all).await {
            Ok(_) => Ok(()),
            Err(_) => Err(ServeError::Unfinished {
                seconds: self.limits.stop_timeout.as_secs(),
                open: self.limits.connections - self.open.available_permits(),
            }),
        }
    }

    /// Serves a connection on a task of its own, or refuses it if there are too many.
    fn take(&self, stream: TcpStream) {
        let _ = stream.set_nodelay(true); // only slower without
        if let Ok(permit) = Arc::clone(&self.open).try_acquire_owned() {
            let phase = self.phase.subscribe();
            let router = self.router.clone();
            let connection = serve_one(stream, router, self.limits.clone(), phase);
            let metrics = self.metrics.clone();
            tokio::spawn(async move {
                metrics.connections.inc();
                connection.await;
                metrics.connections.dec();
                drop(permit);
            });
        } else {
            self.metrics.refused_connections.inc();
            if let Ok(permit) = Arc::clone(&self.refused).try_acquire_owned() {
                tokio::spawn(refuse(stream, self.limits.connections, permit));
            }
        }
    }
}

/// Waits for a phase or a later one.
pub(crate) async fn reached(phase: &mut watch::Receiver<Phase>, expected: Phase) {
    // Without a sender there is no server, and so nothing to wait for.
    let _ = phase.wait_for(|phase| *phase >= expected).await;
}

/// Serves the requests of a connection one after another.
async fn serve_one(
    stream: TcpStream,
    router: Router,
    limits: Limits,
    mut phase: watch::Receiver<Phase>,
) {
    let mut stream = TimeoutWriter::new(stream);
    stream.set_timeout(Some(limits.write_timeout));
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(
            TokioIo::new(Box::pin(stream)),
            TowerToHyperService::new(router),
        );
    let served = tokio::select! {
        served = poll_fn(|cx| connection.poll_without_shutdown(cx)) => served,
        () = reached(&mut phase, Phase::Closing) => {
            Pin::new(&mut connection).graceful_shutdown();
            poll_fn(|cx| connection.poll_without_shutdown(cx)).await
        }
    };
    match served {
        Ok(()) => {
            let mut stream = connection.into_parts().io.into_inner();
            linger::close(stream.as_mut().get_pin_mut().get_mut()).await;
        }
        Err(error) => tracing::debug!(%error, "connection closed"),
    }
}

/// Answers a connection that is one too many, whatever it asks.
async fn refuse(mut stream: TcpStream, most: usize, permit: OwnedSemaphorePermit) {
    let body = ApiError::Connections { most }.json();
    let answer = format!(
        "HTTP/1.1 429 Too Many Requests\r\ncontent-type: application/json\r\ncontent-length: {}\r\nretry-after: \
         {RETRY_AFTER}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let written = tokio::time::timeout(Duration::from_secs(1), stream.write_all(answer.as_bytes()));
    if matches!(written.await, Ok(Ok(()))) {
        linger::close(&mut stream).await;
    }
    drop(permit);
}
