//! The live report of a run, on this machine only: a page that updates itself while another process
//! trains the run. Nothing is written to the run.
//!
//! ```
//! use perceiver_serve::Dashboard;
//! use perceiver_train::RunDirectory;
//! # fn serve(run: RunDirectory) -> Result<(), Box<dyn std::error::Error>> {
//! let dashboard = Dashboard::bind(run, 0)?; // any free port
//! println!("http://{}", dashboard.address());
//! dashboard.run_until_signal()?;
//! # Ok(())
//! # }
//! ```

mod answers;
mod publisher;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use perceiver_report::RunWatch;
use perceiver_train::RunDirectory;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

use crate::error::{Result, ServeError};
use crate::http::connection::{Connections, Phase};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::server::{Signals, StopHandle, listen};
use answers::{DashboardState, router};
use publisher::Publisher;

/// The connections that are open at once. A browser holds one for events and some for pages.
const CONNECTIONS: usize = 64;

/// A server of a run's live report, on the loopback interface.
#[derive(Debug)]
pub struct Dashboard {
    runtime: Runtime,
    listener: TcpListener,
    address: SocketAddr,
    publisher: Publisher,
    phase: watch::Sender<Phase>,
}

impl Dashboard {
    /// Creates a server of a run that listens on a port of 127.0.0.1; port 0 takes any that is free.
    ///
    /// # Errors
    /// When the run cannot be read, or the port cannot be listened on.
    pub fn bind(run: RunDirectory, port: u16) -> Result<Self> {
        let report = run.report();
        let publisher = Publisher::new(RunWatch::open(run)?, report)?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(2)
            .thread_name("dashboard")
            .enable_all()
            .build();
        let runtime = runtime.map_err(|source| ServeError::System {
            action: "start the threads of the server",
            source,
        })?;
        let address = (Ipv4Addr::LOCALHOST, port).into();
        let (listener, address) =
            listen(&runtime, address).map_err(|source| ServeError::Bind { address, source })?;
        Ok(Self {
            runtime,
            listener,
            address,
            publisher,
            phase: watch::Sender::new(Phase::Running),
        })
    }

    /// Returns the address that the server listens on, with its actual port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns a handle that stops the server: it looks at the run once more, and gives open pages a
    /// moment to fetch the last state.
    pub fn stop_handle(&self) -> StopHandle {
        StopHandle::new(self.phase.clone())
    }

    /// Serves until the server is stopped.
    ///
    /// # Errors
    /// When requests are left when the time for stopping is over.
    pub fn run(self) -> Result<()> {
        let limits = Limits {
            connections: CONNECTIONS,
            ..Limits::default()
        };
        // Connections end when this phase says so, which follows that of the stop handle.
        let connections_phase = watch::Sender::new(Phase::Running);
        let state = Arc::new(DashboardState::new(
            &self.publisher,
            connections_phase.subscribe(),
        ));
        let router = router(&state);
        let metrics = Metrics::new(1);
        let connections = Connections::new(router, &limits, metrics, connections_phase.clone());
        let stopped = self.phase.subscribe();
        let publisher = self.publisher;
        let publishing = async move {
            publisher.publish_until(stopped, &state).await;
            connections_phase.send_replace(Phase::Stopping);
        };
        let (served, ()) = self
            .runtime
            .block_on(async { tokio::join!(connections.serve(self.listener), publishing) });
        self.runtime.shutdown_background();
        served
    }

    /// Serves until Ctrl-C or SIGTERM; a second one ends the process with exit code 130.
    ///
    /// # Errors
    /// As for [`Dashboard::run`], and when signals cannot be handled.
    pub fn run_until_signal(self) -> Result<()> {
        let stop = self.stop_handle();
        Signals::stop_at_first(&self.runtime, stop)?;
        self.run()
    }
}
