//! Limits of a server: sizes, counts and times, and the memory that follows from them.

use std::time::Duration;

use perceiver_data::MAX_DECODED_BYTES;

use crate::error::{Result, ServeError};

/// The bytes of request heads that a connection buffers at most.
pub(crate) const MAX_HEAD_BYTES: usize = 64 << 10;

/// The number of headers of a request.
pub(crate) const MAX_HEADERS: usize = 64;

/// The most images of a request that [`Limits::max_images`] may allow.
pub(crate) const MOST_IMAGES: usize = 256;

/// The bytes that a pixel takes from its decoding to the model's input: 8-bit RGB, a crop of it, and
/// a copy in another layout.
const BYTES_PER_PIXEL: u64 = 9;

/// The bytes that a byte of a request takes: itself, a buffer that is moved while it grows, and the
/// decoded base64 or the parts of a form.
const COPIES_OF_BODY: u64 = 3;

/// The limits of a server. Each is checked before the memory or time it bounds is spent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest number of images that the model classifies at once.
    pub max_batch: usize,
    /// The longest time that an image waits for others to join its batch. It waits only while other
    /// requests are being decoded.
    pub batch_wait: Duration,
    /// The number of images that may wait to be decoded and classified; further requests get 429.
    pub queue: usize,
    /// The largest request body in bytes.
    pub max_body: u64,
    /// The largest number of bytes of all bodies together that are in memory.
    pub max_buffered: u64,
    /// The largest number of pixels of an image, checked before it is decoded. All images that are
    /// being decoded have at most as many together.
    pub max_pixels: u64,
    /// The largest number of images of a request.
    pub max_images: usize,
    /// The number of connections; further ones get 429 and are closed.
    pub connections: usize,
    /// The time for a request's head to arrive, also on an idle connection.
    pub header_timeout: Duration,
    /// The time for a request's body to arrive.
    pub body_timeout: Duration,
    /// The time from a request's head to its answer.
    pub timeout: Duration,
    /// The time in which a client has to take some of its answer.
    pub write_timeout: Duration,
    /// The time for unfinished requests when the server stops.
    pub stop_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_batch: 64,
            batch_wait: Duration::from_millis(5),
            queue: 256,
            max_body: 20 << 20,
            max_buffered: 128 << 20,
            max_pixels: 50_000_000,
            max_images: 32,
            connections: 512,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            timeout: Duration::from_mins(1),
            write_timeout: Duration::from_secs(30),
            stop_timeout: Duration::from_mins(1),
        }
    }
}

impl Limits {
    /// Checks that every limit is in its range.
    ///
    /// # Errors
    /// With the first limit that is not.
    pub fn validate(&self) -> Result<()> {
        let counts = [
            ("max_batch", self.max_batch as u64, 1, 4096),
            ("queue", self.queue as u64, 1, 1 << 20),
            ("max_body", self.max_body, 1, 1 << 30),
            ("max_buffered", self.max_buffered, self.max_body, 1 << 40),
            ("max_pixels", self.max_pixels, 1, 1 << 30),
            ("max_images", self.max_images as u64, 1, MOST_IMAGES as u64),
            ("connections", self.connections as u64, 1, 1 << 20),
        ];
        for (setting, value, least, most) in counts {
            if !(least..=most).contains(&value) {
                return Err(ServeError::Setting {
                    setting,
                    expected: format!("{least} to {most}"),
                    found: value.to_string(),
                });
            }
        }
        let times = [
            ("header_timeout", self.header_timeout),
            ("body_timeout", self.body_timeout),
            ("timeout", self.timeout),
            ("write_timeout", self.write_timeout),
            ("stop_timeout", self.stop_timeout),
        ];
        for (setting, time) in times {
            if time.is_zero() || time > Duration::from_hours(24) {
                return Err(ServeError::Setting {
                    setting,
                    expected: "a duration above 0 and up to a day".to_string(),
                    found: format!("{time:?}"),
                });
            }
        }
        if self.batch_wait > Duration::from_mins(1) {
            return Err(ServeError::Setting {
                setting: "batch_wait",
                expected: "at most a minute".to_string(),
                found: format!("{:?}", self.batch_wait),
            });
        }
        Ok(())
    }

    /// Returns the bytes that requests can make the server allocate at most, whatever they are, with
    /// inputs of `input_bytes` bytes an image. The model, its activations and attention maps come on
    /// top: they do not depend on requests beyond `max_batch`.
    ///
    /// ```
    /// use perceiver_serve::Limits;
    ///
    /// let bound = Limits::default().memory_bound(3 * 32 * 32 * 4);
    /// assert!(bound < 1 << 30, "{bound}");
    /// ```
    pub fn memory_bound(&self, input_bytes: u64) -> u64 {
        let bodies = COPIES_OF_BODY * self.max_buffered;
        // Images are either being decoded, within the budget of perceiver-data, or preprocessed.
        let decoding = MAX_DECODED_BYTES.max(BYTES_PER_PIXEL * self.max_pixels);
        let queued = self.queue as u64 * input_bytes;
        let heads = 2 * (self.connections * MAX_HEAD_BYTES) as u64;
        bodies + decoding + queued + heads
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        Limits::default().validate().unwrap();
    }

    #[test]
    fn limits_out_of_range_are_rejected_by_name() {
        let limits = Limits::default();
        let rejected = |limits: Limits| limits.validate().unwrap_err().to_string();
        let no_queue = Limits {
            queue: 0,
            ..limits.clone()
        };
        assert_eq!(rejected(no_queue), "queue: expected 1 to 1048576, found 0");
        let small_buffer = Limits {
            max_buffered: 5,
            ..limits.clone()
        };
        assert!(rejected(small_buffer).starts_with("max_buffered: expected 20971520 to"));
        let no_time = Limits {
            timeout: Duration::ZERO,
            ..limits
        };
        assert!(rejected(no_time).starts_with("timeout: expected a duration above 0"));
    }
}
