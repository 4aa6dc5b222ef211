//! Reads request bodies within limits of size, time and the memory of all bodies together.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::http::api_error::ApiError;
use crate::limits::Limits;

/// The bytes of a unit of the memory of all bodies.
pub(crate) const KIB: usize = 1024;

/// A body in memory, with its part of the memory of all bodies.
pub(crate) struct Buffered {
    pub(crate) bytes: Bytes,
    /// Held as long as the bytes are.
    pub(crate) memory: Option<OwnedSemaphorePermit>,
}

/// Reads a body. Memory is taken as bytes arrive, whatever the headers announce.
///
/// # Errors
/// When it is too large, too slow or incomplete, or other bodies leave no room for it.
pub(crate) async fn read(
    headers: &HeaderMap,
    body: Body,
    limits: &Limits,
    memory: &Arc<Semaphore>,
) -> Result<Buffered, ApiError> {
    let announced = announced(headers, limits.max_body)?;
    let mut reading = Reading {
        bytes: Vec::new(),
        announced,
        most: limits.max_body,
        memory,
        taken: None,
    };
    let read = tokio::time::timeout(limits.body_timeout, reading.all(body)).await;
    match read {
        Ok(Ok(())) => Ok(Buffered {
            bytes: reading.bytes.into(),
            memory: reading.taken,
        }),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(timeout(limits.body_timeout, reading.bytes.len())),
    }
}

fn timeout(limit: Duration, found: usize) -> ApiError {
    ApiError::BodyTimeout {
        seconds: limit.as_secs(),
        found,
    }
}

/// Returns the announced length, if there is one.
fn announced(headers: &HeaderMap, most: u64) -> Result<Option<u64>, ApiError> {
    let Some(length) = headers.get(header::CONTENT_LENGTH) else {
        return Ok(None);
    };
    let length: Option<u64> = length.to_str().ok().and_then(|text| text.parse().ok());
    match length {
        Some(length) if length > most => Err(ApiError::BodyTooLarge {
            most,
            found: length.to_string(),
        }),
        length => Ok(length),
    }
}

/// A body of which a part is read.
struct Reading<'a> {
    bytes: Vec<u8>,
    announced: Option<u64>,
    most: u64,
    memory: &'a Arc<Semaphore>,
    taken: Option<OwnedSemaphorePermit>,
}

impl Reading<'_> {
    async fn all(&mut self, mut body: Body) -> Result<(), ApiError> {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| ApiError::BodyIncomplete {
                finding: error.to_string(),
            })?;
            if let Some(data) = frame.data_ref() {
                self.add(data)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, data: &[u8]) -> Result<(), ApiError> {
        let length = self.bytes.len() + data.len();
        if length as u64 > self.most {
            let found = "more, without an announced length".to_string();
            return Err(ApiError::BodyTooLarge {
                most: self.most,
                found,
            });
        }
        let taken = self
            .taken
            .as_ref()
            .map_or(0, OwnedSemaphorePermit::num_permits);
        let needed = length.div_ceil(KIB);
        if needed > taken {
            let more = Arc::clone(self.memory).try_acquire_many_owned((needed - taken) as u32);
            let more = more.map_err(|_| ApiError::QueueFull {
                wanted: format!("a body of {length} bytes"),
            })?;
            match &mut self.taken {
                None => self.taken = Some(more),
                Some(taken) => taken.merge(more),
            }
        }
        if length > self.bytes.capacity() {
            let whole = self.announced.map_or(0, |announced| announced as usize);
            // At once if what is announced is little more than what is there, else by doubling.
            let next = (2 * length).max(16 * KIB);
            let next = if whole >= length {
                next.min(whole)
            } else {
                next
            };
            self.bytes.reserve_exact(next - self.bytes.len());
        }
        self.bytes.extend_from_slice(data);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            max_body: 5000,
            body_timeout: Duration::from_millis(50),
            ..Limits::default()
        }
    }

    fn read_now(
        body: Body,
        announced: Option<&str>,
        memory: &Arc<Semaphore>,
    ) -> Result<Buffered, ApiError> {
        let mut headers = HeaderMap::new();
        if let Some(announced) = announced {
            headers.insert(header::CONTENT_LENGTH, announced.parse().unwrap());
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(read(&headers, body, &limits(), memory))
    }

    #[test]
    fn bodies_are_read_within_their_limit() {
        let memory = Arc::new(Semaphore::new(5));
        for announced in [None, Some("5000"), Some("1"), Some("none")] {
            let body = read_now(Body::from(vec![7; 5000]), announced, &memory)
                .ok()
                .unwrap();
            assert_eq!(body.bytes, vec![7; 5000]);
            assert_eq!(memory.available_permits(), 0);
        }
        assert_eq!(memory.available_permits(), 5);
        for (length, announced) in [(5001, None), (0, Some("5001")), (0, Some("99999999999999"))] {
            let error = read_now(Body::from(vec![7; length]), announced, &memory)
                .err()
                .unwrap();
            assert!(matches!(error, ApiError::BodyTooLarge { .. }), "{error}");
        }
    }

    #[test]
    fn a_body_without_room_is_refused_and_leaves_no_trace() {
        let memory = Arc::new(Semaphore::new(4));
        let error = read_now(Body::from(vec![7; 5000]), None, &memory)
            .err()
            .unwrap();
        assert!(matches!(error, ApiError::QueueFull { .. }), "{error}");
        assert_eq!(memory.available_permits(), 4);
    }

    #[test]
    fn a_body_that_does_not_arrive_times_out() {
        let memory = Arc::new(Semaphore::new(4));
        let endless = futures_util::stream::pending::<Result<Bytes, std::io::Error>>();
        let error = read_now(Body::from_stream(endless), None, &memory)
            .err()
            .unwrap();
        assert!(
            matches!(error, ApiError::BodyTimeout { found: 0, .. }),
            "{error}"
        );
    }
}
