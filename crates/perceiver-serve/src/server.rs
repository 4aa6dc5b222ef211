//! The server: its parts put together, run, and stopped.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use perceiver_model::Architecture;
use perceiver_train::Predictor;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Semaphore, watch};

use crate::config::ServeConfig;
use crate::error::{Result, ServeError};
use crate::http::connection::{Connections, Phase};
use crate::inference::batch::Batches;
use crate::inference::decode::DecodeStage;
use crate::inference::model_thread;
use crate::inference::queue::Queue;
use crate::metrics::Metrics;
use crate::model_facts::ModelFacts;
use crate::routes::router;
use crate::state::AppState;
use crate::upload::body::KIB;

/// The threads of the executor: it only moves bytes.
const EXECUTOR_THREADS: usize = 2;

/// A server that listens on its address.
#[derive(Debug)]
pub struct Server {
    runtime: Runtime,
    listener: TcpListener,
    address: SocketAddr,
    predictor: Predictor,
    config: ServeConfig,
    phase: watch::Sender<Phase>,
}

/// Stops a server from another thread.
#[derive(Clone, Debug)]
pub struct StopHandle(watch::Sender<Phase>);

impl StopHandle {
    /// Creates a handle that sets a phase.
    pub(crate) fn new(phase: watch::Sender<Phase>) -> Self {
        Self(phase)
    }

    /// Asks the server to answer what it has taken, and to end.
    pub fn stop(&self) {
        self.0.send_if_modified(|phase| {
            let is_running = *phase == Phase::Running;
            if is_running {
                *phase = Phase::Stopping;
            }
            is_running
        });
    }
}

impl Server {
    /// Creates a server that listens on the address of its configuration.
    ///
    /// # Errors
    /// When a setting is out of range, or the address cannot be listened on.
    pub fn bind(predictor: Predictor, mut config: ServeConfig) -> Result<Self> {
        config.limits.validate()?;
        if config.top_k == 0 {
            return Err(ServeError::Setting {
                setting: "top_k",
                expected: "at least 1".to_string(),
                found: "0".to_string(),
            });
        }
        let largest = predictor.checkpoint().batch_size();
        config.limits.max_batch = config.limits.max_batch.min(largest);
        let runtime = Builder::new_multi_thread()
            .worker_threads(EXECUTOR_THREADS)
            .max_blocking_threads(2 * decode_threads() + 2)
            .thread_name("http")
            .enable_all()
            .build();
        let runtime = runtime.map_err(|source| ServeError::System {
            action: "start the threads of the server",
            source,
        })?;
        let (listener, address) =
            listen(&runtime, config.address).map_err(|source| ServeError::Bind {
                address: config.address,
                source,
            })?;
        Ok(Self {
            runtime,
            listener,
            address,
            predictor,
            config,
            phase: watch::Sender::new(Phase::Running),
        })
    }

    /// Returns the address that the server listens on, with its actual port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the configuration, with the limits as the model allows them.
    pub fn config(&self) -> &ServeConfig {
        &self.config
    }

    /// Returns the bytes that requests can make the server allocate at most; see
    /// [`Limits::memory_bound`](crate::Limits::memory_bound).
    pub fn memory_bound(&self) -> u64 {
        let side = self.predictor.checkpoint().config.model.image_size() as u64;
        self.config
            .limits
            .memory_bound(3 * side * side * size_of::<f32>() as u64)
    }

    /// Returns a handle that stops the server.
    pub fn stop_handle(&self) -> StopHandle {
        StopHandle::new(self.phase.clone())
    }

    /// Answers requests until the server is stopped, and until what it has taken by then is answered.
    ///
    /// # Errors
    /// When threads cannot be started, an allowed origin is none, or requests are left when the time
    /// for stopping is over.
    pub fn run(self) -> Result<()> {
        let metrics = Metrics::new(self.config.limits.queue);
        let limits = self.config.limits.clone();
        let (queue, jobs, arriving) = Queue::new(limits.queue, metrics.clone());
        let predictor = Arc::new(self.predictor);
        let facts = ModelFacts::new(&predictor, &self.config)?;
        let model = serde_json::to_vec(&facts).unwrap_or_default(); // no map keys, so it cannot fail
        let state = Arc::new(AppState {
            decode: Arc::new(DecodeStage::new(
                Arc::clone(&predictor),
                &limits,
                decode_threads(),
            )),
            predictor: Arc::clone(&predictor),
            queue,
            body_kib: Arc::new(Semaphore::new(
                limits.max_buffered.div_ceil(KIB as u64) as usize
            )),
            metrics: metrics.clone(),
            model: Bytes::from(model),
            phase: self.phase.subscribe(),
            config: self.config,
        });
        let router = router(&state)?;
        let batches = Batches {
            jobs,
            arriving,
            most: limits.max_batch,
            wait: limits.batch_wait,
        };
        let model = model_thread::start(predictor, batches, metrics.clone())?;
        let connections = Connections::new(router, &limits, metrics, self.phase);
        let served = self.runtime.block_on(connections.serve(self.listener));
        drop(state);
        // What is still running belongs to connections whose time is over.
        self.runtime.shutdown_background();
        if served.is_ok() {
            let _ = model.join(); // a panic there has failed its requests already
        }
        served
    }

    /// Runs the server until Ctrl-C or SIGTERM; a second one ends the process with exit code 130.
    ///
    /// # Errors
    /// As for [`Server::run`], and when signals cannot be handled.
    pub fn run_until_signal(self) -> Result<()> {
        Signals::stop_at_first(&self.runtime, self.stop_handle())?;
        self.run()
    }
}

/// The exit code of a program that a signal ends, as in shells.
const INTERRUPTED: i32 = 130;

fn decode_threads() -> usize {
    thread::available_parallelism().map_or(1, Into::into)
}

pub(crate) fn listen(
    runtime: &Runtime,
    address: SocketAddr,
) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = runtime.block_on(TcpListener::bind(address))?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// The signals that stop a server.
pub(crate) struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(windows)]
    interrupt: tokio::signal::windows::CtrlC,
}

impl Signals {
    /// Stops a server of this runtime at the first signal, and ends the process at the second.
    ///
    /// # Errors
    /// When signals cannot be handled.
    pub(crate) fn stop_at_first(runtime: &Runtime, stop: StopHandle) -> Result<()> {
        let mut signals = {
            let _runtime = runtime.enter();
            Self::new().map_err(|source| ServeError::System {
                action: "handle Ctrl-C",
                source,
            })?
        };
        runtime.spawn(async move {
            signals.next().await;
            tracing::info!("stopping: answering what was taken; again to stop at once");
            stop.stop();
            signals.next().await;
            std::process::exit(INTERRUPTED);
        });
        Ok(())
    }

    #[cfg(unix)]
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    #[cfg(windows)]
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: tokio::signal::windows::ctrl_c()?,
        })
    }

    #[cfg(unix)]
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    #[cfg(windows)]
    async fn next(&mut self) {
        self.interrupt.recv().await;
    }
}
