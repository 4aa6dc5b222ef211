//! Configuration of a server: address, access and limits.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::limits::Limits;

/// The configuration of a server.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// The address to listen on; port 0 takes any that is free.
    pub address: SocketAddr,
    /// The name of the model in answers and on the page.
    pub name: String,
    /// The number of classes in an answer, unless the request has `top_k`.
    pub top_k: usize,
    /// The token that requests must have, if any.
    pub token: Option<Token>,
    /// The origins whose pages may use the server from a browser: exact ones, or `*`. None by default.
    pub allowed_origins: Vec<String>,
    /// Names by which the server may be asked, in addition to those of this machine. With an address
    /// of the loopback interface, requests with other names are refused, since they come from a page
    /// elsewhere whose name was made to point here.
    pub allowed_hosts: Vec<String>,
    /// Test results of the model, for the page and `/model`.
    pub results: Option<perceiver_train::TestResults>,
    /// The limits.
    pub limits: Limits,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self {
            address: (Ipv4Addr::LOCALHOST, 8080).into(),
            name: "perceiver".to_string(),
            top_k: 5,
            token: None,
            allowed_origins: Vec::new(),
            allowed_hosts: Vec::new(),
            results: None,
            limits: Limits::default(),
        }
    }
}

/// A bearer token, kept as its SHA-256.
#[derive(Clone, PartialEq, Eq)]
pub struct Token([u8; 32]);

impl Token {
    /// Creates a token from its text.
    pub fn new(text: &str) -> Self {
        Self(Sha256::digest(text.as_bytes()).into())
    }

    /// Whether `text` is this token, in a time that does not depend on where the two differ or how
    /// long they are.
    ///
    /// ```
    /// use perceiver_serve::Token;
    ///
    /// let token = Token::new("secret");
    /// assert!(token.is(b"secret") && !token.is(b"secre") && !token.is(b""));
    /// ```
    pub fn is(&self, text: &[u8]) -> bool {
        let digest: [u8; 32] = Sha256::digest(text).into();
        digest.ct_eq(&self.0).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}
