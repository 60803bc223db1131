//! The call page, embedded in the binary.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

include!(concat!(env!("OUT_DIR"), "/page.rs"));

/// The entry page.
pub(crate) const INDEX: &str = "index.html";

/// Answers with an embedded file, or 404.
pub(crate) fn file(path: &str) -> Response {
    let Some((name, bytes)) = FILES.iter().find(|(name, _)| *name == path) else {
        return (StatusCode::NOT_FOUND, "nothing here; the call page is at /").into_response();
    };
    let kind = mime_guess::from_path(name).first_or_octet_stream();
    // Vite names what it puts into assets/ by its content, so that it never changes; the rest is asked for each time.
    let cache = if name.starts_with("assets/") { "public, max-age=31536000, immutable" } else { "no-cache" };
    let headers = [
        (header::CONTENT_TYPE, kind.essence_str().to_owned() + charset(kind.type_().as_str())),
        (header::CACHE_CONTROL, cache.to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    (headers, *bytes).into_response()
}

fn charset(kind: &str) -> &'static str {
    if kind == "text" { "; charset=utf-8" } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_always_an_entry_page() {
        let page = file(INDEX);
        assert_eq!(page.status(), StatusCode::OK);
        assert_eq!(page.headers()[header::CONTENT_TYPE], "text/html; charset=utf-8");
        assert_eq!(file("no/such/file").status(), StatusCode::NOT_FOUND);
    }
}
