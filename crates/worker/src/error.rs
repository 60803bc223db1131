//! Why a request was refused, as the driver's library tells them apart.

use worker_protocol::wire::request::Method;

use crate::method::method_name;

/// A refused request. The variant becomes the response's `error`, the text its `reason`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The request was understood and could not be done.
    #[error("{0}")]
    Error(String),
    /// The request itself is wrong.
    #[error("{0}")]
    Type(String),
    /// The request names something that does not exist.
    #[error("{0}")]
    NotFound(String),
}

/// What a request method answers.
pub type RequestResult<T> = Result<T, RequestError>;

impl RequestError {
    /// An `Error` with this reason.
    pub fn error(reason: impl Into<String>) -> Self {
        Self::Error(reason.into())
    }

    /// A `TypeError` with this reason.
    pub fn type_error(reason: impl Into<String>) -> Self {
        Self::Type(reason.into())
    }

    /// A `NotFoundError` with this reason.
    pub fn not_found(reason: impl Into<String>) -> Self {
        Self::NotFound(reason.into())
    }

    /// The method exists and does not apply to what the handler id names.
    pub fn unknown_method(method: Method) -> Self {
        Self::Error(format!("unknown method '{}'", method_name(method)))
    }

    /// The method exists and is not built yet.
    pub fn unsupported(what: &str, method: Method) -> Self {
        Self::Error(format!("{what} not supported yet: {}", method_name(method)))
    }

    /// The request lacks the body that its method needs.
    pub fn missing_body(method: Method) -> Self {
        Self::Type(format!("missing or wrong request body [method:{}]", method_name(method)))
    }

    /// The name on the wire, which the driver's library maps to an error class.
    pub fn wire_name(&self) -> &'static str {
        match self {
            Self::Error(_) => "Error",
            Self::Type(_) => "TypeError",
            Self::NotFound(_) => "NotFoundError",
        }
    }
}
