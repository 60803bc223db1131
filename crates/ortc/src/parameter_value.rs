//! Codec and header extension parameters: what stands in an SDP `fmtp` line, by name.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Parameters by name (`packetization-mode`, `apt`, `useinbandfec`).
pub type ParameterMap = BTreeMap<String, ParameterValue>;

/// The value of one parameter, in the shape it arrived.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ParameterValue {
    /// `true` or `false`.
    Boolean(bool),
    /// A whole number.
    Integer(i32),
    /// A number with a fraction, or one too large for [`ParameterValue::Integer`].
    Number(f64),
    /// Text.
    Text(String),
    /// A list of whole numbers.
    Integers(Vec<i32>),
    /// Anything else that JSON can hold; it is kept, and never sent to a worker.
    Other(serde_json::Value),
}

impl ParameterValue {
    /// The value as a whole number: a number, or text that is one.
    #[must_use]
    pub fn as_integer(&self) -> Option<i32> {
        match self {
            Self::Integer(value) => Some(*value),
            Self::Text(text) => text.trim().parse().ok(),
            Self::Boolean(_) | Self::Number(_) | Self::Integers(_) | Self::Other(_) => None,
        }
    }

    /// The value as text, where it is text.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl From<i32> for ParameterValue {
    fn from(value: i32) -> Self {
        Self::Integer(value)
    }
}

impl From<&str> for ParameterValue {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for ParameterValue {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}
