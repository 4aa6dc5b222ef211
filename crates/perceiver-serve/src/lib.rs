//! Predictions over HTTP: a checkpoint behind `POST /predict`, with dynamic batching, limits on
//! everything that a request can use up, metrics, an `OpenAPI` description, and a page to try images.
//!
//! ```
//! use std::io::{Read, Write};
//! use std::net::TcpStream;
//!
//! use candle_core::Device;
//! use perceiver_serve::{ServeConfig, Server};
//! use perceiver_train::{Checkpoint, Predictor};
//!
//! # let directory = tempfile::tempdir()?;
//! # perceiver_serve::write_untrained_checkpoint(perceiver_train::Preset::Quickstart, directory.path())?;
//! # let runs_mine = directory.path();
//! let checkpoint = Checkpoint::open(runs_mine, &Device::Cpu)?;
//! let address = "127.0.0.1:0".parse()?; // any free port
//! let config = ServeConfig { address, ..ServeConfig::default() };
//! let server = Server::bind(Predictor::new(checkpoint, None), config)?;
//!
//! let (address, stop) = (server.address(), server.stop_handle());
//! let running = std::thread::spawn(|| server.run());
//! let mut connection = TcpStream::connect(address)?;
//! connection.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
//! let mut answer = String::new();
//! connection.read_to_string(&mut answer)?;
//! assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with(r#"{"status":"ok"}"#));
//!
//! stop.stop();
//! running.join().unwrap()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Dashboard`] serves the live report of a run instead, on this machine only.
//!
//! The path of a request: `http` (connection, access, log), `routes/predict.rs`, `upload` (the body
//! and the images in it), `inference` (decoding, queue, batches, the model's thread).

mod config; // address, access, limits
mod dashboard; // the live report of a run
mod error; // errors of starting and running
mod http; // connections, access, errors as JSON, the log
mod inference; // decoding, queue, batches, the model's thread
mod limits; // sizes, counts, times, and the memory that follows
mod metrics; // Prometheus text
mod model_facts; // what /model answers
mod routes; // handlers by path
mod server; // parts put together, run, stopped
mod state; // what handlers share
mod untrained; // a checkpoint to try a server with
mod upload; // bodies and the images in them

pub use config::{ServeConfig, Token};
pub use dashboard::Dashboard;
pub use error::{Result, ServeError};
pub use limits::Limits;
pub use server::{Server, StopHandle};

pub use untrained::write_untrained_checkpoint;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDocTests;
