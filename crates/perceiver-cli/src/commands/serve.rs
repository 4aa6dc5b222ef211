//! `perceiver serve`: predictions over HTTP.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use perceiver_files::{MAX_TEXT_BYTES, read_regular};
use perceiver_serve::{Limits, ServeConfig, ServeError, Server, Token};
use perceiver_train::{Predictor, TestResults};

use crate::args::checkpoint::CheckpointFlags;
use crate::args::compute::ComputeFlags;
use crate::args::errors::{at_least_one, usage_error};
use crate::args::flip_average::FlipAverageFlag;
use crate::args::size;
use crate::ui::logging::LogFormat;
use crate::ui::terminal;

/// Answer predictions over HTTP, with a page to try images.
///
/// The page is at /, the API is described at /openapi.json: POST /predict takes images as a form, as
/// JSON with base64 or as they are; GET /health, /model and /metrics describe the server. Predictions
/// are those of `perceiver predict`. The address is printed to standard output.
///
/// The server listens on this machine only, unless --address says otherwise. Ctrl-C or SIGTERM stops
/// it: requests that it has taken are answered first.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  perceiver serve --checkpoint runs/photos
  perceiver serve --checkpoint runs/photos --address 127.0.0.1:0 --top-k 3
  perceiver serve --checkpoint runs/photos --address 0.0.0.0:8080 \\
      --token-file token.txt --allow-origin https://pictures.example")]
pub(crate) struct Arguments {
    #[command(flatten)]
    checkpoint: CheckpointFlags,

    /// Address and port to listen on; port 0 is any that is free. Another address than 127.0.0.1 opens
    /// the server to the network.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    address: SocketAddr,

    /// Answer with the K most probable classes, unless a request says otherwise.
    #[arg(long, value_name = "K", default_value_t = 5, value_parser = at_least_one)]
    top_k: usize,

    #[command(flatten)]
    flip: FlipAverageFlag,

    #[command(flatten)]
    compute: ComputeFlags,

    #[command(flatten)]
    access: Access,

    #[command(flatten)]
    limits: LimitFlags,

    /// Log format: text, or json with one object per line.
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
}

/// Who may use the server.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Access")]
struct Access {
    /// Require this bearer token for /predict, /model and /metrics. Other users of this machine can
    /// see it in the list of processes: --token-file is safer.
    #[arg(long, value_name = "TOKEN", conflicts_with = "token_file")]
    token: Option<String>,

    /// Require the bearer token in this file.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Let pages of this origin use the server from a browser (CORS), or of any with '*'; can be
    /// repeated.
    #[arg(long, value_name = "ORIGIN")]
    allow_origin: Vec<String>,

    /// Answer requests for this name too; can be repeated. On 127.0.0.1, only names of this machine
    /// are answered.
    #[arg(long, value_name = "NAME")]
    allow_host: Vec<String>,
}

/// The limits of the server.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Limits")]
struct LimitFlags {
    /// Classify up to N images at once.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = at_least_one)]
    max_batch: usize,

    /// Let an image wait up to this long for others that are being decoded: a number of milliseconds,
    /// or a duration such as 5ms.
    #[arg(long, value_name = "TIME", default_value = "5ms", value_parser = wait)]
    batch_wait: Duration,

    /// Let up to N images wait; further requests are answered with 429.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = at_least_one)]
    queue: usize,

    /// The largest body of a request.
    #[arg(long, value_name = "SIZE", default_value = "20MiB", value_parser = size::bytes)]
    max_body: u64,

    /// The largest size of all bodies together that are in memory.
    #[arg(long, value_name = "SIZE", default_value = "128MiB", value_parser = size::bytes)]
    max_buffered: u64,

    /// The most pixels of an image.
    #[arg(long, value_name = "N", default_value_t = 50_000_000)]
    max_pixels: u64,

    /// The most images of a request.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = at_least_one)]
    max_images: usize,

    /// The most connections; further ones are answered with 429 and closed.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = at_least_one)]
    connections: usize,

    /// The time for the head of a request to arrive, and for the next request of a connection.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    header_timeout: Duration,

    /// The time for the body of a request to arrive.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    body_timeout: Duration,

    /// The time for a request, from its head to its answer.
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = humantime::parse_duration)]
    timeout: Duration,

    /// The time in which a client has to take a part of its answer.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    write_timeout: Duration,

    /// The time for unfinished requests when the server stops.
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = humantime::parse_duration)]
    stop_timeout: Duration,
}

/// Parses milliseconds or a duration.
fn wait(text: &str) -> Result<Duration, String> {
    if let Ok(ms) = text.parse() {
        return Ok(Duration::from_millis(ms));
    }
    humantime::parse_duration(text)
        .map_err(|error| format!("expected milliseconds or a duration such as 5ms: {error}"))
}

impl Arguments {
    /// Returns the log format.
    pub(crate) fn log_format(&self) -> LogFormat {
        self.log_format
    }
}

impl From<&LimitFlags> for Limits {
    fn from(flags: &LimitFlags) -> Self {
        Self {
            max_batch: flags.max_batch,
            batch_wait: flags.batch_wait,
            queue: flags.queue,
            max_body: flags.max_body,
            max_buffered: flags.max_buffered,
            max_pixels: flags.max_pixels,
            max_images: flags.max_images,
            connections: flags.connections,
            header_timeout: flags.header_timeout,
            body_timeout: flags.body_timeout,
            timeout: flags.timeout,
            write_timeout: flags.write_timeout,
            stop_timeout: flags.stop_timeout,
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let limits = Limits::from(&arguments.limits);
    limits.validate().map_err(flag_error)?; // before the model is read
    let token = token(&arguments.access)?;
    let directory = arguments.checkpoint.files(&["results.json"])?;
    let checkpoint = arguments
        .checkpoint
        .open_directory(&directory, arguments.compute.device)?;
    let checkpoint = arguments.compute.in_precision(checkpoint)?;
    let config = ServeConfig {
        address: arguments.address,
        name: name(arguments.checkpoint.shown()),
        top_k: arguments.top_k,
        token,
        allowed_origins: arguments.access.allow_origin.clone(),
        allowed_hosts: arguments.access.allow_host.clone(),
        results: results(&directory),
        limits,
    };
    let server = Server::bind(
        Predictor::new(checkpoint, arguments.flip.flip_average),
        config,
    );
    let server = server.map_err(flag_error)?;
    say_where(&server)?;
    server.run_until_signal().map_err(flag_error)?;
    tracing::info!("stopped: all requests are answered");
    Ok(ExitCode::SUCCESS)
}

/// Returns an error of a setting as one of the flag that has its value.
fn flag_error(error: ServeError) -> anyhow::Error {
    match error {
        ServeError::Setting {
            setting,
            expected,
            found,
        } => {
            let flag = match setting {
                "allowed_origins" => "allow-origin".to_string(),
                setting => setting.replace('_', "-"),
            };
            usage_error(anyhow::anyhow!(
                "--{flag}: expected {expected}, found {found}"
            ))
        }
        error => error.into(),
    }
}

/// Returns the token of the flags, without the newline that editors put at the end of a file.
fn token(access: &Access) -> Result<Option<Token>> {
    let (flag, text) = match (&access.token, &access.token_file) {
        (Some(token), _) => ("--token", token.clone()),
        (None, Some(path)) => {
            let bytes = read_regular(path, MAX_TEXT_BYTES);
            let bytes = bytes.with_context(|| format!("--token-file {}", path.display()))?;
            let text = String::from_utf8_lossy(&bytes);
            (
                "--token-file",
                text.trim_end_matches(['\r', '\n']).to_string(),
            )
        }
        (None, None) => return Ok(None),
    };
    // What a header can hold.
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        let found = if text.is_empty() {
            "none"
        } else {
            "other characters"
        };
        return Err(usage_error(anyhow::anyhow!(
            "{flag}: expected a token of visible ASCII characters without spaces, found {found}"
        )));
    }
    Ok(Some(Token::new(&text)))
}

/// Returns the name of a model: the last part of a path, or the whole name on the Hub.
fn name(checkpoint: &str) -> String {
    let path = Path::new(checkpoint);
    let last = path.file_name().filter(|_| path.is_dir());
    last.map_or_else(
        || checkpoint.to_string(),
        |last| last.to_string_lossy().into_owned(),
    )
}

/// Returns the test results beside a checkpoint, if there are any that can be read.
fn results(directory: &Path) -> Option<TestResults> {
    let path = directory.join("results.json");
    if !path.exists() {
        return None;
    }
    let results = TestResults::read(&path);
    results
        .inspect_err(|error| tracing::warn!("{error}; serving without test results"))
        .ok()
}

fn say_where(server: &Server) -> Result<()> {
    let address = server.address();
    let limits = &server.config().limits;
    let bound = size::shown(server.memory_bound());
    tracing::info!(
        "serving {} on http://{address}; batches of up to {} images, a queue of {}, at most {bound} of memory \
         for requests beside the model",
        server.config().name,
        limits.max_batch,
        limits.queue,
    );
    let has_token = server.config().token.is_some();
    if address.ip().is_loopback() {
        tracing::info!(
            "only this machine can reach it; --address 0.0.0.0:{} opens it to the network",
            address.port()
        );
    } else if !has_token {
        tracing::warn!(
            "everyone who can reach {address} can use it: --token-file FILE requires a token"
        );
    }
    terminal::print(format_args!("http://{address}"))?; // last: who reads it may connect now
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_in_milliseconds_or_with_a_unit() {
        assert_eq!(wait("7"), Ok(Duration::from_millis(7)));
        assert_eq!(wait("0"), Ok(Duration::ZERO));
        assert_eq!(wait("1s 5ms"), Ok(Duration::from_millis(1005)));
        assert!(wait("soon").unwrap_err().contains("milliseconds"));
    }

    #[test]
    fn the_flags_have_the_defaults_of_the_library() {
        #[derive(clap::Parser)]
        struct Program {
            #[command(flatten)]
            limits: LimitFlags,
        }
        let program = <Program as clap::Parser>::parse_from(["serve"]);
        assert_eq!(Limits::from(&program.limits), Limits::default());
    }

    #[test]
    fn tokens_are_read_from_flags_and_files() {
        let access = |token: Option<&str>, file: Option<PathBuf>| Access {
            token: token.map(ToString::to_string),
            token_file: file,
            allow_origin: Vec::new(),
            allow_host: Vec::new(),
        };
        assert_eq!(token(&access(None, None)).unwrap(), None);
        let given = token(&access(Some("a-b"), None)).unwrap();
        assert_eq!(given, Some(Token::new("a-b")));
        for wrong in ["", "a b", "a\nb", "é"] {
            let error = token(&access(Some(wrong), None)).unwrap_err().to_string();
            assert!(error.contains("--token: expected a token"), "{error}");
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token.txt");
        std::fs::write(&path, "a-b\r\n").unwrap();
        assert_eq!(
            token(&access(None, Some(path))).unwrap(),
            Some(Token::new("a-b"))
        );
        let missing = token(&access(None, Some(directory.path().join("no"))));
        assert!(format!("{:#}", missing.unwrap_err()).contains("--token-file"));
    }
}
