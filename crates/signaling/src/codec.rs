//! protoo's framing: one JSON text a WebSocket frame, each a request, a response or a notification. Reads what comes
//! from clients within strict limits, writes what goes to them. Knows no method.

use serde_json::{Map, Value, json};

/// The longest frame from a client, in bytes; checked before anything is parsed. What a client says of its codecs is
/// passed on to every receiver, so that protoo's own 960,000 would be multiplied. The capabilities of a browser, the
/// longest message there is, stay far below.
pub(crate) const MAX_FRAME_BYTES: usize = 131_072;
/// The deepest nesting. RTP parameters need 6 levels; a parser's stack allows many more than this.
const MAX_DEPTH: usize = 32;
/// Values in one frame. The RTP capabilities of a browser have about 900.
const MAX_VALUES: usize = 20_000;
/// The longest method name.
const MAX_METHOD_BYTES: usize = 64;
/// protoo draws ids below 1e7; what a JavaScript number holds exactly is accepted.
const MAX_ID: u64 = (1 << 53) - 1;

/// One frame from a client.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Frame {
    /// The client asks and expects a response with the same id.
    Request {
        /// Chosen by the client.
        id: u64,
        /// What it asks.
        method: String,
        /// The arguments; `{}` when there are none.
        data: Value,
    },
    /// The client's answer.
    Response {
        /// The id of our request.
        id: u64,
        /// Its data, or its error.
        result: Result<Value, ResponseError>,
    },
    /// The client tells something.
    Notification {
        /// What.
        method: String,
        /// The arguments.
        data: Value,
    },
}

/// An error response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ResponseError {
    /// A number, by HTTP's meanings.
    pub(crate) code: u16,
    /// Words.
    pub(crate) reason: String,
}

/// A frame that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CodecError {
    /// More than [`MAX_FRAME_BYTES`].
    #[error("a frame of {0} bytes: at most {MAX_FRAME_BYTES} are allowed")]
    TooLong(usize),
    /// More brackets within brackets than any method needs.
    #[error("JSON nested deeper than 32 levels")]
    TooDeep,
    /// More values than any method needs.
    #[error("more than 20000 JSON values in one frame")]
    TooManyValues,
    /// Not JSON.
    #[error("not JSON: {0}")]
    Json(String),
    /// JSON, but no protoo message.
    #[error("not a protoo message: {what}")]
    Shape {
        /// What is wrong.
        what: &'static str,
        /// The id to answer to, when it is a request with an id that can be read.
        id: Option<u64>,
    },
}

impl CodecError {
    /// The id of the faulty request, when it can be told.
    pub(crate) fn request_id(&self) -> Option<u64> {
        match self {
            Self::Shape { id, .. } => *id,
            _ => None,
        }
    }
}

/// Reads one frame.
pub(crate) fn parse(text: &str) -> Result<Frame, CodecError> {
    if text.len() > MAX_FRAME_BYTES {
        return Err(CodecError::TooLong(text.len()));
    }
    check_shape(text)?;
    let value: Value = serde_json::from_str(text).map_err(|error| CodecError::Json(error.to_string()))?;
    let Value::Object(mut message) = value else {
        return Err(CodecError::Shape { what: "an object was expected", id: None });
    };
    if is_true(&message, "request") {
        parse_request(message)
    } else if is_true(&message, "response") {
        parse_response(message)
    } else if is_true(&message, "notification") {
        let method = method_of(&mut message).map_err(|what| CodecError::Shape { what, id: None })?;
        Ok(Frame::Notification { method, data: data_of(&mut message) })
    } else {
        Err(CodecError::Shape { what: "one of request, response, notification must be true", id: None })
    }
}

fn parse_request(mut message: Map<String, Value>) -> Result<Frame, CodecError> {
    let Some(id) = id_of(&message) else {
        return Err(CodecError::Shape { what: "a request needs an integer id", id: None });
    };
    let method = method_of(&mut message).map_err(|what| CodecError::Shape { what, id: Some(id) })?;
    Ok(Frame::Request { id, method, data: data_of(&mut message) })
}

fn parse_response(mut message: Map<String, Value>) -> Result<Frame, CodecError> {
    let Some(id) = id_of(&message) else {
        return Err(CodecError::Shape { what: "a response needs an integer id", id: None });
    };
    let result = if is_true(&message, "ok") {
        Ok(data_of(&mut message))
    } else {
        let code = message.get("errorCode").and_then(Value::as_u64);
        let reason = message.get("errorReason").and_then(Value::as_str).unwrap_or_default();
        Err(ResponseError {
            code: code.and_then(|code| u16::try_from(code).ok()).unwrap_or(500),
            reason: reason.chars().take(200).collect(),
        })
    };
    Ok(Frame::Response { id, result })
}

/// Depth and count in one pass, so that a hostile frame costs no more memory than its own bytes.
fn check_shape(text: &str) -> Result<(), CodecError> {
    let (mut depth, mut values, mut in_string, mut escaped) = (0_usize, 1_usize, false, false);
    for byte in text.bytes() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                depth = depth.saturating_add(1);
                values = values.saturating_add(1);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' => values = values.saturating_add(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(CodecError::TooDeep);
        }
        if values > MAX_VALUES {
            return Err(CodecError::TooManyValues);
        }
    }
    Ok(())
}

fn is_true(message: &Map<String, Value>, key: &str) -> bool {
    message.get(key).and_then(Value::as_bool) == Some(true)
}

fn id_of(message: &Map<String, Value>) -> Option<u64> {
    message.get("id").and_then(Value::as_u64).filter(|id| *id <= MAX_ID)
}

fn method_of(message: &mut Map<String, Value>) -> Result<String, &'static str> {
    match message.remove("method") {
        Some(Value::String(method)) if method.is_empty() => Err("method is empty"),
        Some(Value::String(method)) if method.len() > MAX_METHOD_BYTES => Err("method is too long"),
        Some(Value::String(method)) => Ok(method),
        _ => Err("method must be a string"),
    }
}

fn data_of(message: &mut Map<String, Value>) -> Value {
    match message.remove("data") {
        None | Some(Value::Null) => json!({}),
        Some(data) => data,
    }
}

/// A request to a client.
pub(crate) fn request(id: u64, method: &str, data: &Value) -> String {
    json!({ "request": true, "id": id, "method": method, "data": data }).to_string()
}

/// An answer to a client.
pub(crate) fn response(id: u64, data: &Value) -> String {
    json!({ "response": true, "id": id, "ok": true, "data": data }).to_string()
}

/// A refusal to a client.
pub(crate) fn error_response(id: u64, code: u16, reason: &str) -> String {
    json!({ "response": true, "id": id, "ok": false, "errorCode": code, "errorReason": reason }).to_string()
}

/// News for a client.
pub(crate) fn notification(method: &str, data: &Value) -> String {
    json!({ "notification": true, "method": method, "data": data }).to_string()
}

/// A message with its number, for a client that counts what it has. `message` is one of those above.
pub(crate) fn numbered(message: &str, number: u64) -> String {
    let open = message.strip_suffix('}').unwrap_or(message);
    format!("{open},\"seq\":{number}}}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_protoo_writes() {
        assert_eq!(
            parse(r#"{"request":true,"id":7,"method":"join","data":{"a":1}}"#),
            Ok(Frame::Request { id: 7, method: "join".to_owned(), data: json!({ "a": 1 }) })
        );
        assert_eq!(
            parse(r#"{"notification":true,"method":"x"}"#),
            Ok(Frame::Notification { method: "x".to_owned(), data: json!({}) })
        );
        assert_eq!(
            parse(r#"{"response":true,"id":3,"ok":false,"errorCode":403,"errorReason":"no"}"#),
            Ok(Frame::Response { id: 3, result: Err(ResponseError { code: 403, reason: "no".to_owned() }) })
        );
        assert_eq!(
            parse(r#"{"response":true,"id":3,"ok":true}"#),
            Ok(Frame::Response { id: 3, result: Ok(json!({})) })
        );
    }

    #[test]
    fn a_faulty_request_with_an_id_can_be_answered() {
        let error = parse(r#"{"request":true,"id":9,"method":5}"#).expect_err("no method");
        assert_eq!(error.request_id(), Some(9));
        let error = parse(r#"{"request":true,"id":-1,"method":"x"}"#).expect_err("no id");
        assert_eq!(error.request_id(), None);
        assert!(parse("[]").is_err() && parse("{}").is_err() && parse("").is_err());
        assert!(parse(r#"{"request":"true","id":1,"method":"x"}"#).is_err());
    }

    #[test]
    fn a_number_is_added_to_any_message() {
        for message in
            [request(1, "x", &json!({})), response(2, &json!({ "a": "}" })), error_response(3, 4, "}")]
        {
            let mut value: Value = serde_json::from_str(&numbered(&message, 77)).expect("JSON");
            assert_eq!(value.as_object_mut().and_then(|fields| fields.remove("seq")), Some(json!(77)));
            assert_eq!(value, serde_json::from_str::<Value>(&message).expect("JSON"));
        }
    }

    #[test]
    fn depth_values_and_length_are_limited() {
        let deep = format!(r#"{{"request":true,"id":1,"method":"x","data":{}"#, "[".repeat(40));
        assert_eq!(parse(&deep), Err(CodecError::TooDeep));
        let brackets_in_text =
            format!(r#"{{"notification":true,"method":"x","data":{{"t":"\"{}"}}}}"#, "[".repeat(40));
        assert!(parse(&brackets_in_text).is_ok());
        let many = format!("[{}0]", "0,".repeat(30_000));
        assert_eq!(parse(&many), Err(CodecError::TooManyValues));
        let long = " ".repeat(MAX_FRAME_BYTES + 1);
        assert_eq!(parse(&long), Err(CodecError::TooLong(MAX_FRAME_BYTES + 1)));
    }

    #[test]
    fn a_number_is_passed_on_to_its_last_digit() {
        let text = r#"{"notification":true,"method":"x","data":{"number":1.0999999999e37}}"#;
        let Ok(Frame::Notification { method, data }) = parse(text) else { panic!("a notification") };
        assert!(notification(&method, &data).contains("1.0999999999e+37"));
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in ".*") {
            let _ = parse(&text);
        }

        #[test]
        fn a_damaged_frame_is_survived(at in 0_usize..200, with in any::<char>()) {
            let good = request(77, "produce", &json!({ "kind": "audio", "rtpParameters": { "codecs": [1, {"a": "b\"\\"}] } }));
            let mut chars: Vec<char> = good.chars().collect();
            let len = chars.len();
            chars[at % len] = with;
            let _ = parse(&chars.into_iter().collect::<String>());
        }

        #[test]
        fn what_is_written_is_read_back(id in 0_u64..10_000_000, method in "[a-zA-Z]{1,40}", text in ".*", number in any::<i64>()) {
            let data = json!({ "text": text, "number": number, "nested": [{ "null": null }] });
            prop_assert_eq!(parse(&request(id, &method, &data)), Ok(Frame::Request { id, method: method.clone(), data: data.clone() }));
            prop_assert_eq!(parse(&notification(&method, &data)), Ok(Frame::Notification { method, data: data.clone() }));
            prop_assert_eq!(parse(&response(id, &data)), Ok(Frame::Response { id, result: Ok(data) }));
            prop_assert_eq!(
                parse(&error_response(id, 404, "gone")),
                Ok(Frame::Response { id, result: Err(ResponseError { code: 404, reason: "gone".to_owned() }) })
            );
        }
    }
}
