//! Access to the Hub: endpoint, token, cache, offline mode.

use std::fmt;
use std::path::PathBuf;

use hf_hub::{HFClient, HFClientSync, HFError};

use crate::progress::OnProgress;
use crate::token;

/// The address of the official Hub.
const OFFICIAL: &str = "https://huggingface.co";

/// Options for access to the Hub. The environment supplies what is not set.
#[derive(Clone, Default)]
pub struct HubAccess {
    /// Address of the Hub; else `HF_ENDPOINT`, else the official one. The token is sent to it in
    /// every case.
    pub endpoint: Option<String>,
    /// Cache directory; else `HF_HUB_CACHE`, else `HF_HOME/hub`.
    pub cache_dir: Option<PathBuf>,
    /// Access token; else `HF_TOKEN`, else the token file. It never appears in a message.
    pub token: Option<String>,
    /// Read from the cache only and open no connection.
    pub offline: bool,
    /// Progress callback of downloads and uploads.
    pub on_progress: Option<OnProgress>,
}

impl HubAccess {
    /// Returns the options of the environment; `offline` follows `HF_HUB_OFFLINE`, which `hf-hub`
    /// itself ignores.
    pub fn from_env() -> Self {
        let offline = std::env::var("HF_HUB_OFFLINE").unwrap_or_default();
        Self {
            offline: ["1", "ON", "YES", "TRUE"].contains(&offline.to_uppercase().as_str()),
            ..Self::default()
        }
    }

    /// Returns the token to send, if any.
    pub(crate) fn resolved_token(&self) -> Option<String> {
        self.token.clone().or_else(token::from_env)
    }

    pub(crate) fn resolved_cache(&self) -> PathBuf {
        let cache = self.cache_dir.clone();
        cache.unwrap_or_else(hf_hub::resolve_cache_dir)
    }

    /// Returns the base address of repository web pages.
    pub(crate) fn address(&self) -> String {
        let set = self.endpoint.clone();
        let endpoint = set.or_else(|| std::env::var("HF_ENDPOINT").ok());
        let endpoint = endpoint.filter(|endpoint| !endpoint.is_empty());
        let endpoint = endpoint.unwrap_or_else(|| OFFICIAL.to_owned());
        endpoint.trim_end_matches('/').to_owned()
    }

    pub(crate) fn client(&self) -> Result<HFClientSync, HFError> {
        let mut builder = HFClient::builder()
            .cache_dir(self.resolved_cache())
            .retry_max_attempts(3);
        if let Some(endpoint) = &self.endpoint {
            builder = builder.endpoint(endpoint);
        }
        if let Some(token) = &self.token {
            builder = builder.token(token);
        }
        builder.build_sync()
    }
}

impl fmt::Debug for HubAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubAccess")
            .field("endpoint", &self.endpoint)
            .field("cache_dir", &self.cache_dir)
            .field("token", &self.token.as_ref().map(|_| "hidden"))
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_not_printed() {
        let access = HubAccess {
            token: Some("hf_secret".into()),
            ..HubAccess::default()
        };
        assert!(!format!("{access:?}").contains("hf_secret"));
    }
}
