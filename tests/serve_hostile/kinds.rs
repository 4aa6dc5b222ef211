//! A kind of hostile request: how it is sent, and what may follow.

use std::time::Duration;

/// What may follow a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A 4xx.
    Refused,
    /// This status.
    Status(u16),
    /// A 4xx, or the end of the connection.
    RefusedOrClosed,
    /// The end of the connection.
    Closed,
    /// Any answer but a failure of the server: the input is odd, but may be answered.
    Answered,
}

/// How a request is sent.
pub(crate) enum Manner {
    /// At once.
    AtOnce(Vec<u8>),
    /// The first part, and then the second byte by byte, with a pause between.
    Trickle(Vec<u8>, Vec<u8>, Duration),
    /// At once, and then the sending half is closed.
    HalfClosed(Vec<u8>),
    /// At once, without reading the answer.
    Unread(Vec<u8>),
}

/// A kind of hostile request.
pub(crate) struct Kind {
    pub(crate) name: String,
    pub(crate) manner: Manner,
    pub(crate) outcome: Outcome,
}

/// All kinds.
#[derive(Default)]
pub(crate) struct Kinds(pub(crate) Vec<Kind>);

impl Kinds {
    pub(crate) fn add(
        &mut self,
        name: impl Into<String>,
        request: impl Into<Vec<u8>>,
        outcome: Outcome,
    ) {
        self.in_manner(name, Manner::AtOnce(request.into()), outcome);
    }

    pub(crate) fn in_manner(&mut self, name: impl Into<String>, manner: Manner, outcome: Outcome) {
        self.0.push(Kind {
            name: name.into(),
            manner,
            outcome,
        });
    }
}
