//! Measures a server under load, and compares every answer with the prediction of its image.
//!
//! ```sh
//! cargo run --release -p perceiver-serve --example load -- untrained demo-model
//! perceiver serve --quiet --checkpoint demo-model &
//! cargo run --release -p perceiver-serve --example load -- run --checkpoint demo-model --clients 64
//! ```

use std::error::Error;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use candle_core::Device;
use clap::Parser;
use perceiver_data::Image;
use perceiver_serve::write_untrained_checkpoint;
use perceiver_train::{Checkpoint, Predictor, Preset};
use serde::Deserialize;

/// Measure a server under load.
#[derive(Debug, Parser)]
enum Arguments {
    /// Write a checkpoint with random weights.
    Untrained {
        /// A new directory.
        directory: PathBuf,
        /// The architecture.
        #[arg(long, default_value = "cifar100-cpu")]
        preset: Preset,
    },
    /// Write the images that `run` sends, as PNG files.
    Images {
        /// A new directory.
        directory: PathBuf,
    },
    /// Send requests and compare the answers.
    Run(Run),
}

#[derive(Debug, clap::Args)]
struct Run {
    /// The checkpoint that the server serves.
    #[arg(long)]
    checkpoint: PathBuf,
    /// The address of the server.
    #[arg(long, default_value = "127.0.0.1:8080")]
    address: SocketAddr,
    /// The number of clients, each with one connection and one request at a time.
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// The number of requests of all clients together.
    #[arg(long, default_value_t = 20_000)]
    requests: usize,
    /// The largest difference of a probability that is taken for the same.
    #[arg(long, default_value_t = 1e-5)]
    tolerance: f32,
}

/// The number of different images.
const IMAGES: usize = 200;

/// The number of classes of an answer that are compared.
const TOP: usize = 5;

/// An image and what the server should answer for it.
struct Sample {
    request: Vec<u8>,
    /// The most probable classes.
    expected: Vec<(String, f32)>,
}

#[derive(Deserialize)]
struct Answer {
    predictions: Vec<Prediction>,
}

#[derive(Deserialize)]
struct Prediction {
    classes: Vec<Class>,
}

#[derive(Deserialize)]
struct Class {
    class: String,
    probability: f32,
}

/// The result of a client's requests.
#[derive(Default)]
struct Tally {
    latencies: Vec<Duration>,
    /// Answers that are equal to the last bit.
    equal: usize,
    wrong: Vec<String>,
}

fn main() -> Result<(), Box<dyn Error>> {
    match Arguments::parse() {
        Arguments::Untrained { directory, preset } => {
            std::fs::create_dir_all(&directory)?;
            write_untrained_checkpoint(preset, &directory)?;
        }
        Arguments::Images { directory } => {
            std::fs::create_dir_all(&directory)?;
            for (index, png) in images()?.into_iter().enumerate() {
                std::fs::write(directory.join(format!("{index:03}.png")), png)?;
            }
        }
        Arguments::Run(arguments) => run(&arguments)?,
    }
    Ok(())
}

/// Returns PNG files of 32 x 32 pixels: patterns that differ from image to image.
fn images() -> Result<Vec<Vec<u8>>, Box<dyn Error>> {
    let mut all = Vec::with_capacity(IMAGES);
    for index in 0..IMAGES {
        let pixel = |at: usize| {
            let (channel, y, x) = (at / 1024, at / 32 % 32, at % 32);
            let wave = (x * (1 + index % 7) + y * (1 + index / 7 % 5)) * (3 + channel) + 11 * index;
            (wave % 256) as u8
        };
        all.push(Image::new(32, 32, (0..3 * 1024).map(pixel).collect())?.to_png()?);
    }
    Ok(all)
}

fn samples(arguments: &Run) -> Result<Vec<Sample>, Box<dyn Error>> {
    let checkpoint = Checkpoint::open(&arguments.checkpoint, &Device::Cpu)?;
    let predictor = Predictor::new(checkpoint, None);
    let mut samples = Vec::with_capacity(IMAGES);
    for png in images()? {
        let image = predictor.decode(&png, "image")?;
        let probabilities = predictor.probabilities(&[image])?.concat();
        let top = predictor.top_classes(&probabilities, TOP);
        let expected = top
            .map(|top| (top.class.to_string(), top.probability))
            .collect();
        let mut request = format!(
            "POST /predict?top_k={TOP} HTTP/1.1\r\nHost: {}\r\nContent-Type: image/png\r\nContent-Length: {}\r\n\r\n",
            arguments.address,
            png.len()
        )
        .into_bytes();
        request.extend(png);
        samples.push(Sample { request, expected });
    }
    Ok(samples)
}

fn run(arguments: &Run) -> Result<(), Box<dyn Error>> {
    let samples = samples(arguments)?;
    let next = AtomicUsize::new(0);
    let started = Instant::now();
    let tallies: Vec<io::Result<Tally>> = thread::scope(|scope| {
        let client = || client(arguments, &samples, &next);
        let clients: Vec<_> = (0..arguments.clients)
            .map(|_| scope.spawn(client))
            .collect();
        let ended = clients.into_iter().map(std::thread::ScopedJoinHandle::join);
        ended
            .map(|ended| ended.unwrap_or_else(|_| Err(io::Error::other("a client panicked"))))
            .collect()
    });
    let seconds = started.elapsed().as_secs_f64();
    let mut all = Tally::default();
    for tally in tallies {
        let tally = tally?;
        all.latencies.extend(tally.latencies);
        all.equal += tally.equal;
        all.wrong.extend(tally.wrong);
    }
    all.latencies.sort();
    let at = |share: f64| {
        let index = (share * all.latencies.len() as f64) as usize;
        let latency = all
            .latencies
            .get(index.min(all.latencies.len().saturating_sub(1)));
        1e3 * latency.copied().unwrap_or_default().as_secs_f64()
    };
    println!(
        "{} clients: {} of {} requests answered in {seconds:.1} s, {:.0} requests/s; p50 {:.1} ms, p99 {:.1} ms; \
         {} equal to the last bit, {} wrong",
        arguments.clients,
        all.latencies.len(),
        arguments.requests,
        all.latencies.len() as f64 / seconds,
        at(0.5),
        at(0.99),
        all.equal,
        all.wrong.len()
    );
    if let Some(wrong) = all.wrong.first() {
        return Err(wrong.clone().into());
    }
    if all.latencies.len() != arguments.requests {
        return Err("requests were lost".into());
    }
    Ok(())
}

/// Sends requests until all are sent.
fn client(arguments: &Run, samples: &[Sample], next: &AtomicUsize) -> io::Result<Tally> {
    let mut tally = Tally::default();
    let mut stream = BufReader::new(TcpStream::connect(arguments.address)?);
    stream.get_ref().set_nodelay(true)?;
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= arguments.requests {
            return Ok(tally);
        }
        let sample = &samples[number % samples.len()];
        let started = Instant::now();
        stream.get_mut().write_all(&sample.request)?;
        let (status, body) = response(&mut stream)?;
        tally.latencies.push(started.elapsed());
        match compare(status, &body, sample, arguments.tolerance) {
            Ok(is_equal) => tally.equal += usize::from(is_equal),
            Err(finding) => tally.wrong.push(format!("request {number}: {finding}")),
        }
    }
}

/// Reads an answer with a `Content-Length`.
fn response(stream: &mut impl BufRead) -> io::Result<(u16, Vec<u8>)> {
    let (mut status, mut length) = (0, 0);
    for number in 0.. {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Err(io::Error::other("the server closed the connection"));
        }
        let line = line.trim_end().to_ascii_lowercase();
        if number == 0 {
            status = line
                .split(' ')
                .nth(1)
                .and_then(|status| status.parse().ok())
                .unwrap_or(0);
        } else if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        } else if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok((status, body))
}

/// Returns whether an answer is equal to the last bit, or what is wrong with it.
fn compare(status: u16, body: &[u8], sample: &Sample, tolerance: f32) -> Result<bool, String> {
    let shown = || String::from_utf8_lossy(body).into_owned();
    if status != 200 {
        return Err(format!("expected 200, found {status}: {}", shown()));
    }
    let answer: Answer =
        serde_json::from_slice(body).map_err(|error| format!("{error}: {}", shown()))?;
    let [prediction] = &answer.predictions[..] else {
        return Err(format!("expected one prediction, found {}", shown()));
    };
    let pairs = || prediction.classes.iter().zip(&sample.expected);
    let is_same = prediction.classes.len() == TOP
        && pairs().all(|(found, (class, probability))| {
            found.class == *class && (found.probability - probability).abs() <= tolerance
        });
    if !is_same {
        return Err(format!("expected {:?}, found {}", sample.expected, shown()));
    }
    Ok(pairs()
        .all(|(found, (_, probability))| found.probability.to_bits() == probability.to_bits()))
}
