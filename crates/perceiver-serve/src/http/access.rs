//! Access: the bearer token, and the names by which the server may be asked.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;

use crate::config::{ServeConfig, Token};
use crate::http::api_error::ApiError;
use crate::state::AppState;

/// Refuses requests without the token, if the server has one.
pub(crate) async fn require_token(
    State(state): State<Arc<AppState>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if let Some(token) = &state.config.token {
        check_token(token, request.headers())?;
    }
    Ok(next.run(request).await)
}

fn check_token(token: &Token, headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Err(ApiError::Unauthorized { found: "no header" });
    };
    let (scheme, given) = value.as_bytes().split_at(value.len().min(BEARER.len()));
    if !scheme.eq_ignore_ascii_case(BEARER) {
        return Err(ApiError::Unauthorized {
            found: "another scheme",
        });
    }
    if !token.is(given) {
        return Err(ApiError::Unauthorized {
            found: "another token",
        });
    }
    Ok(())
}

const BEARER: &[u8] = b"Bearer ";

/// Refuses requests for a name that is not one of this server's.
pub(crate) async fn require_host(
    State(state): State<Arc<AppState>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let host = request.headers().get(header::HOST);
    let host = host.map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned());
    // Browsers, which alone can be led here by a name, always send one.
    if let Some(host) = host
        && !is_allowed(&state.config, &host)
    {
        let found = host.chars().take(100).collect();
        return Err(ApiError::Host { found });
    }
    Ok(next.run(request).await)
}

fn is_allowed(config: &ServeConfig, host: &str) -> bool {
    let name = without_port(host);
    let is_ours = |own: &String| own.eq_ignore_ascii_case(name) || own.eq_ignore_ascii_case(host);
    if config.allowed_hosts.iter().any(is_ours) {
        return true;
    }
    if !config.address.ip().is_loopback() {
        return config.allowed_hosts.is_empty();
    }
    is_this_machine(host)
}

/// Whether a host, with or without a port, names this machine: `localhost` or a loopback address.
pub(crate) fn is_this_machine(host: &str) -> bool {
    let name = without_port(host);
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || bare.parse().is_ok_and(|ip: Ipv4Addr| ip.is_loopback())
        || bare.parse().is_ok_and(|ip: Ipv6Addr| ip.is_loopback())
}

/// Returns the host without `:PORT`.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') =>
        {
            name
        }
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_is_accepted() {
        let token = Token::new("open sesame");
        let check = |value: Option<&str>| {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            }
            check_token(&token, &headers).is_ok()
        };
        assert!(check(Some("Bearer open sesame")) && check(Some("bearer open sesame")));
        for refused in [
            None,
            Some(""),
            Some("Bearer"),
            Some("Bearer "),
            Some("Bearer open sesam"),
            Some("Bearer open sesame "),
            Some("Basic open sesame"),
            Some("open sesame"),
        ] {
            assert!(!check(refused), "{refused:?}");
        }
    }

    #[test]
    fn a_loopback_server_is_asked_by_names_of_this_machine() {
        let mut config = ServeConfig::default();
        for host in [
            "localhost",
            "LOCALHOST:8080",
            "127.0.0.1:80",
            "127.9.9.9",
            "[::1]:8080",
            "[::1]",
        ] {
            assert!(is_allowed(&config, host), "{host}");
        }
        for host in [
            "evil.test",
            "localhost.evil.test:8080",
            "10.0.0.1",
            "",
            ":8080",
            "[::2]:1",
        ] {
            assert!(!is_allowed(&config, host), "{host}");
        }
        config.allowed_hosts = vec!["pictures.example".to_string()];
        assert!(is_allowed(&config, "Pictures.example:443") && is_allowed(&config, "localhost"));
        config.address = "0.0.0.0:80".parse().unwrap();
        assert!(!is_allowed(&config, "evil.test"));
        config.allowed_hosts.clear();
        assert!(is_allowed(&config, "any.test"));
    }
}
