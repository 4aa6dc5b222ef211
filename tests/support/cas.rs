//! The Hub's storage of large files in chunks (xet), on loopback: `hf-hub` uploads chunks to it
//! and downloads them from it. The storage is the in-memory one of `xet-client`; this file is its
//! HTTP interface, in version 1 of the protocol.
//!
//! A file is uploaded as xorbs, which contain chunks, and a shard, which lists the chunks of the
//! file, its hash and its SHA-256. It is downloaded by its reconstruction: the byte ranges of xorbs
//! to fetch.

use std::collections::HashMap;
use std::io::Cursor;
use std::sync::Arc;

use serde_json::json;
use tokio::runtime::Runtime;
use xet_client::cas_client::{Client, DirectAccessClient, MemoryClient};
use xet_client::cas_types::FileRange;
use xet_client::error::ClientError;
use xet_core_structures::merklehash::MerkleHash;
use xet_core_structures::metadata_shard::streaming_shard::MDBMinimalShard;
use xet_core_structures::xorb_object::SerializedXorbObject;
use xet_runtime::core::XetContext;

use crate::http::{Request, Response};

/// A store of files in chunks.
pub struct ChunkStore {
    runtime: Runtime,
    client: Arc<MemoryClient>,
    /// The hash of each file in hexadecimal, by its SHA-256.
    by_sha256: HashMap<String, String>,
}

type Answer = Result<Response, ClientError>;

impl ChunkStore {
    /// Creates an empty store.
    ///
    /// # Panics
    /// When threads cannot be started.
    #[must_use]
    pub fn new() -> Self {
        let runtime = Runtime::new().expect("threads");
        let context = runtime.block_on(async { XetContext::default().expect("a context") });
        Self {
            runtime,
            client: MemoryClient::new(context),
            by_sha256: HashMap::new(),
        }
    }

    /// Returns the hash of the file with this SHA-256, if it was uploaded.
    #[must_use]
    pub fn name_of(&self, sha256: &str) -> Option<&str> {
        self.by_sha256.get(sha256).map(String::as_str)
    }

    /// Returns the content of the file with this SHA-256, if it was uploaded.
    #[must_use]
    pub fn content_of(&self, sha256: &str) -> Option<Vec<u8>> {
        let hash = MerkleHash::from_hex(self.name_of(sha256)?).ok()?;
        let content = self
            .runtime
            .block_on(self.client.get_file_data(&hash, None));
        content.ok().map(|content| content.to_vec())
    }

    /// Answers a request; none if it is not for this store.
    pub fn answer(&mut self, request: &Request, address: &str) -> Option<Response> {
        let path: Vec<&str> = request.path.trim_start_matches('/').split('/').collect();
        let answer = match (request.method.as_str(), path.as_slice()) {
            ("POST", ["v1", "xorbs", prefix, hash]) => self.take_xorb(prefix, hash, &request.body),
            ("POST", ["v1", "shards"]) => self.take_shard(&request.body),
            ("GET", ["v1", "reconstructions", hash]) => {
                self.reconstruction(hash, range_of(request), address)
            }
            ("GET", ["v1", "xorb-bytes", hash]) => self.xorb_bytes(hash, range_of(request)),
            (_, ["v1" | "v2", ..]) => Ok(Response::new(404, "not offered")),
            _ => return None,
        };
        Some(answer.unwrap_or_else(|error| Response::new(400, error.to_string())))
    }

    fn take_xorb(&mut self, prefix: &str, hash: &str, data: &[u8]) -> Answer {
        let xorb = SerializedXorbObject {
            hash: parsed(hash)?,
            serialized_data: data.to_vec(),
            raw_num_bytes: data.len() as u64,
            num_chunks: 0,
            footer_start: None,
        };
        self.runtime.block_on(async {
            let permit = self.client.acquire_upload_permit().await?;
            self.client.upload_xorb(prefix, xorb, None, permit).await
        })?;
        Ok(as_json(&json!({"was_inserted": true})))
    }

    fn take_shard(&mut self, data: &[u8]) -> Answer {
        let shard = MDBMinimalShard::from_reader(&mut Cursor::new(data), true, true);
        let shard = shard.map_err(|_| ClientError::InvalidArguments)?;
        self.runtime.block_on(async {
            let permit = self.client.acquire_upload_permit().await?;
            let data = data.to_vec().into();
            self.client.upload_shard(data, permit, None).await
        })?;
        for file in (0..shard.num_files()).filter_map(|index| shard.file(index)) {
            let hash = file.file_hash();
            let content = self
                .runtime
                .block_on(self.client.get_file_data(&hash, None))?;
            self.by_sha256
                .insert(crate::hub::sha256(&content), hash.hex());
        }
        Ok(as_json(&json!({"result": 1})))
    }

    fn reconstruction(&self, hash: &str, range: Option<FileRange>, address: &str) -> Answer {
        let hash = parsed(hash)?;
        let reconstruction = self
            .runtime
            .block_on(self.client.get_reconstruction_v1(&hash, range))?;
        let Some(mut reconstruction) = reconstruction else {
            return Ok(Response::new(416, "no such bytes"));
        };
        for (xorb, fetches) in &mut reconstruction.fetch_info {
            let xorb: MerkleHash = (*xorb).into();
            for fetch in fetches {
                fetch.url = format!("{address}/v1/xorb-bytes/{}", xorb.hex());
            }
        }
        let json =
            serde_json::to_value(&reconstruction).map_err(|_| ClientError::InvalidArguments)?;
        Ok(as_json(&json))
    }

    fn xorb_bytes(&self, hash: &str, range: Option<FileRange>) -> Answer {
        let hash = parsed(hash)?;
        let bytes = self
            .runtime
            .block_on(self.client.get_xorb_raw_bytes(&hash, range))?;
        let status = if range.is_some() { 206 } else { 200 };
        Ok(Response::new(status, bytes.to_vec()))
    }
}

impl Default for ChunkStore {
    fn default() -> Self {
        Self::new()
    }
}

fn as_json(body: &serde_json::Value) -> Response {
    Response::new(200, body.to_string()).with("Content-Type", "application/json")
}

fn parsed(hash: &str) -> Result<MerkleHash, ClientError> {
    MerkleHash::from_hex(hash).map_err(|_| ClientError::InvalidArguments)
}

/// Parses `bytes=FIRST-LAST`, the form of all ranges here.
fn range_of(request: &Request) -> Option<FileRange> {
    let range = request.header("range")?.strip_prefix("bytes=")?;
    let (first, last) = range.split_once('-')?;
    Some(FileRange::new(
        first.parse().ok()?,
        last.parse::<u64>().ok()? + 1,
    ))
}
