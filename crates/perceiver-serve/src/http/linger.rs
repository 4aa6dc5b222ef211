//! Lingering close: the end of a connection whose client may still be sending.
//!
//! A socket that is closed with unread data resets the connection, and a client that is still
//! sending then loses the answer that explains why it was refused.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The longest time to wait for the client's end.
const LONGEST: Duration = Duration::from_secs(1);

/// The most bytes that are read and dropped.
const MOST_BYTES: usize = 4 << 20;

/// Closes a connection after its last answer: ends the sending half, and drops what still arrives.
pub(crate) async fn close(stream: &mut TcpStream) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let drain = async {
        let mut buffer = [0; 8 << 10];
        let mut dropped = 0;
        while dropped < MOST_BYTES {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(bytes) => dropped += bytes,
            }
        }
    };
    let _ = tokio::time::timeout(LONGEST, drain).await;
}
