//! Files of the Hugging Face Hub: downloads that are checked before they are used, uploads in one
//! commit.
//!
//! ```no_run
//! use perceiver_hub::{HubAccess, RepoKind, RepoName, Repository, Upload};
//!
//! // Two files of a model, as they are at one moment; they lie in the cache that Python's huggingface_hub shares.
//! let name: RepoName = "someone/perceiver@main".parse()?;
//! let directory = name.fetch(RepoKind::Model, &HubAccess::from_env(), &["config.json", "model.safetensors"])?;
//! println!("{}", directory.join("config.json").display());
//!
//! // A directory's files, and one made just now, into a repository that is created if need be.
//! let repository = Repository::connect(RepoKind::Model, "me/perceiver", &HubAccess::from_env())?;
//! let files = [
//!     Upload::file("model.safetensors", "runs/mine/model.safetensors"),
//!     Upload::bytes("README.md", "# Mine"),
//! ];
//! repository.create(true)?;
//! let commit = repository.upload("main", "Perceiver of today", &files)?;
//! println!("{}", commit.address);
//! # Ok::<(), perceiver_hub::HubError>(())
//! ```
//!
//! All transfers use the `hf-hub` library, so `HF_TOKEN` (or the token file of `hf auth login`),
//! `HF_HOME`, `HF_HUB_CACHE` and `HF_ENDPOINT` have their usual meaning. This crate adds:
//!
//! - Checksums: a file is used only if it has the size and checksum that the Hub states. `hf-hub`
//!   keeps any server response to a download, an error page included. A wrong file is removed and
//!   downloaded again.
//! - Consistency: several files come from one commit, even if somebody pushes in between.
//! - Offline use: `HF_HUB_OFFLINE`, and the cache if no server can be reached.
//! - Errors that say what to do, and contain no tokens.

mod access;
mod cache;
mod check;
mod download;
mod error;
mod model;
mod name;
mod progress;
mod refusal;
mod repo_kind;
mod repository;
mod retry;
mod token;
mod upload;

pub use access::HubAccess;
pub use check::{RemoteFile, remove_cached};
pub use error::{HubError, Result};
pub use model::ModelSource;
pub use name::RepoName;
pub use progress::{HubProgress, OnProgress};
pub use repo_kind::RepoKind;
pub use repository::Repository;
pub use token::{from_env as token_from_env, without_tokens};
pub use upload::{Commit, Upload};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDocTests;
