//! What the dashboard answers: the page, its events, and the complete report.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware::{Next, from_fn};
use axum::response::sse::{Event, Sse};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use futures_util::stream::{Stream, unfold};
use tokio::sync::watch;

use crate::dashboard::publisher::{Published, Publisher};
use crate::http::access::is_this_machine;
use crate::http::api_error::ApiError;
use crate::http::connection::{Phase, reached};

/// The largest report that is served, in bytes; reports are far smaller.
const MOST_REPORT_BYTES: u64 = 256 << 20;

/// What a page may load: nothing but events of this server and what is in the page itself.
const CONTENT_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
     connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Headers of every answer.
const HEADERS: [(HeaderName, &str); 5] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
];

/// What the handlers share.
pub(crate) struct DashboardState {
    published: watch::Receiver<Published>,
    report: PathBuf,
    phase: watch::Receiver<Phase>,
    /// The number of open streams of events.
    pub(crate) streams: AtomicUsize,
    /// The newest version that was fetched, and how often.
    fetches: Mutex<(u64, usize)>,
}

impl DashboardState {
    pub(crate) fn new(publisher: &Publisher, phase: watch::Receiver<Phase>) -> Self {
        Self {
            published: publisher.published.subscribe(),
            report: publisher.report.clone(),
            phase,
            streams: AtomicUsize::new(0),
            fetches: Mutex::new((0, 0)),
        }
    }

    /// Returns how often this version of the page was fetched.
    pub(crate) fn newest_fetches(&self, version: u64) -> usize {
        let (newest, fetches) = *self.fetches.lock().unwrap_or_else(PoisonError::into_inner);
        if newest == version { fetches } else { 0 }
    }

    fn fetched(&self, version: u64) {
        let mut fetches = self.fetches.lock().unwrap_or_else(PoisonError::into_inner);
        if fetches.0 != version {
            *fetches = (version, 0);
        }
        fetches.1 += 1;
    }
}

/// Returns the service of a dashboard.
pub(crate) fn router(state: &Arc<DashboardState>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/events", get(events))
        .route("/report.html", get(report))
        .fallback(not_found)
        .with_state(Arc::clone(state))
        .layer(from_fn(complete))
}

/// Refuses other methods and names of other machines, and adds headers.
async fn complete(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST);
    let host = host.map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned());
    let mut response = match host {
        // A page elsewhere whose name was made to point here.
        Some(host) if !is_this_machine(&host) => ApiError::Host {
            found: host.chars().take(100).collect(),
        }
        .into_response(),
        _ if ![Method::GET, Method::HEAD].contains(request.method()) => ApiError::Method {
            expected: "GET",
            found: request.method().as_str().chars().take(30).collect(),
        }
        .into_response(),
        _ => next.run(request).await,
    };
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn not_found(request: Request) -> ApiError {
    let path = request.uri().path().chars().take(200).collect();
    ApiError::NotFound { path }
}

async fn page(State(state): State<Arc<DashboardState>>) -> Html<Bytes> {
    let published = state.published.borrow().clone();
    state.fetched(published.version);
    Html(published.page)
}

/// Answers with the `report.html` of the run, if it has one.
async fn report(State(state): State<Arc<DashboardState>>) -> Result<Html<Vec<u8>>, ApiError> {
    let path = state.report.clone();
    let read = move || perceiver_files::read_regular(&path, MOST_REPORT_BYTES);
    let read = tokio::task::spawn_blocking(read).await;
    match read {
        Ok(Ok(bytes)) => Ok(Html(bytes)),
        _ => Err(ApiError::NotFound {
            path: "/report.html".to_string(),
        }),
    }
}

/// A stream of events of one page.
struct Follower {
    state: Arc<DashboardState>,
    published: watch::Receiver<Published>,
    phase: watch::Receiver<Phase>,
    /// The events that are to be sent before the next change.
    pending: Vec<Event>,
    version: u64,
    is_ended: bool,
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.state.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Follower {
    /// Returns the next event; none after the last one.
    async fn next(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        loop {
            if let Some(event) = self.pending.pop() {
                return Some((Ok(event), self));
            }
            if self.is_ended {
                return None;
            }
            let (published, phase) = (&mut self.published, &mut self.phase);
            let is_changed = tokio::select! {
                biased; // the last change before the end
                changed = published.changed() => changed.is_ok(),
                () = reached(phase, Phase::Stopping) => false,
            };
            if is_changed {
                self.take();
            } else {
                self.end();
            }
        }
    }

    /// Takes what is new.
    fn take(&mut self) {
        let published = self.published.borrow_and_update().clone();
        // In reverse: the last is sent first.
        if published.version > self.version {
            self.version = published.version;
            let version = Event::default().event("version");
            self.pending.push(version.data(self.version.to_string()));
        }
        let status = Event::default().event("status").data(&*published.status);
        self.pending.push(status);
    }

    fn end(&mut self) {
        self.is_ended = true;
        self.pending.push(Event::default().event("end").data("end"));
    }
}

/// Answers with server-sent events: `status`, what the run does now; `version`, that of the newest
/// page; and `end`, when the server stops.
async fn events(
    State(state): State<Arc<DashboardState>>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    state.streams.fetch_add(1, Ordering::Relaxed);
    let mut follower = Follower {
        published: state.published.clone(),
        phase: state.phase.clone(),
        state,
        pending: Vec::new(),
        version: 0,
        is_ended: false,
    };
    follower.take();
    Sse::new(unfold(follower, Follower::next))
}
