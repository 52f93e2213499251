//! As much of HTTP/1.1 as a scraper and a health check need, without I/O: GET and HEAD without a body, keep-alive, pipelining.

/// A request's line and headers together.
pub const MAX_HEAD_BYTES: usize = 8 << 10;
const MAX_HEADERS: usize = 64;

#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// More bytes are needed.
    Incomplete,
    Request(Request),
    /// Answer with this status and close.
    Refused(Status),
}

#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// Without the query.
    pub path: String,
    pub head_only: bool,
    pub keep_alive: bool,
    /// Bytes of the buffer that were this request.
    pub len: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Ok,
    BadRequest,
    NotFound,
    MethodNotAllowed,
    BodyNotAllowed,
    HeadTooLarge,
    VersionNotSupported,
    Unavailable,
}

impl Status {
    fn line(self) -> &'static str {
        match self {
            Status::Ok => "200 OK",
            Status::BadRequest => "400 Bad Request",
            Status::NotFound => "404 Not Found",
            Status::MethodNotAllowed => "405 Method Not Allowed",
            Status::BodyNotAllowed => "413 Content Too Large",
            Status::HeadTooLarge => "431 Request Header Fields Too Large",
            Status::VersionNotSupported => "505 HTTP Version Not Supported",
            Status::Unavailable => "503 Service Unavailable",
        }
    }

    /// What the answer says when it has nothing else to say.
    pub fn text(self) -> String {
        format!("{}\n", self.line())
    }
}

pub fn parse(bytes: &[u8]) -> Parsed {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let len = match request.parse(bytes) {
        Ok(httparse::Status::Complete(len)) if len <= MAX_HEAD_BYTES => len,
        Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD_BYTES => return Parsed::Incomplete,
        Ok(_) | Err(httparse::Error::TooManyHeaders) => {
            return Parsed::Refused(Status::HeadTooLarge);
        }
        Err(httparse::Error::Version) => return Parsed::Refused(Status::VersionNotSupported),
        Err(_) => return Parsed::Refused(Status::BadRequest),
    };
    let is_11 = request.version == Some(1);
    let mut keep_alive = is_11;
    let mut has_host = false;
    for header in request.headers.iter() {
        let value = String::from_utf8_lossy(header.value);
        if header.name.eq_ignore_ascii_case("connection") {
            for option in value.split(',').map(str::trim) {
                if option.eq_ignore_ascii_case("close") {
                    keep_alive = false;
                } else if option.eq_ignore_ascii_case("keep-alive") {
                    keep_alive = true;
                }
            }
        } else if header.name.eq_ignore_ascii_case("host") {
            has_host = true;
        } else if header.name.eq_ignore_ascii_case("transfer-encoding")
            || (header.name.eq_ignore_ascii_case("content-length") && value.trim() != "0")
        {
            return Parsed::Refused(Status::BodyNotAllowed);
        }
    }
    if is_11 && !has_host {
        return Parsed::Refused(Status::BadRequest);
    }
    let head_only = match request.method {
        Some("GET") => false,
        Some("HEAD") => true,
        _ => return Parsed::Refused(Status::MethodNotAllowed),
    };
    let target = request.path.unwrap_or_default();
    let path = target
        .split(['?', '#'])
        .next()
        .unwrap_or_default()
        .to_owned();
    Parsed::Request(Request {
        path,
        head_only,
        keep_alive,
        len,
    })
}

/// An answer's head, and its body unless only the head was asked for.
pub fn answer(
    status: Status,
    content_type: &str,
    body: &str,
    head_only: bool,
    keep_alive: bool,
) -> Vec<u8> {
    let connection = if keep_alive { "keep-alive" } else { "close" };
    let allow = if status == Status::MethodNotAllowed {
        "Allow: GET, HEAD\r\n"
    } else {
        ""
    };
    let mut out = format!(
        "HTTP/1.1 {}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\nConnection: {connection}\r\n{allow}Cache-Control: no-store\r\n\r\n",
        status.line(),
        body.len(),
    );
    if !head_only {
        out.push_str(body);
    }
    out.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests() {
        let get = |text: &str| match parse(text.as_bytes()) {
            Parsed::Request(r) => (r.path, r.head_only, r.keep_alive, r.len),
            other => panic!("{text:?}: {other:?}"),
        };
        assert_eq!(
            get("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\nGET /"),
            ("/metrics".into(), false, true, 34)
        );
        assert_eq!(
            get("GET /a?b=c HTTP/1.0\r\n\r\n"),
            ("/a".into(), false, false, 23)
        );
        assert!(get("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").2);
        assert!(
            get("HEAD / HTTP/1.1\r\nHost: x\r\nConnection: x, close\r\nContent-Length: 0\r\n\r\n")
                .1
        );
    }

    #[test]
    fn whatever_else_is_refused() {
        let refused = |text: &str, status| {
            assert_eq!(parse(text.as_bytes()), Parsed::Refused(status), "{text:?}")
        };
        refused(
            "POST / HTTP/1.1\r\nHost: x\r\n\r\n",
            Status::MethodNotAllowed,
        );
        refused(
            "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
            Status::BodyNotAllowed,
        );
        refused(
            "GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
            Status::BodyNotAllowed,
        );
        refused("GET / HTTP/1.1\r\n\r\n", Status::BadRequest);
        refused(
            "GET / HTTP/2.0\r\nHost: x\r\n\r\n",
            Status::VersionNotSupported,
        );
        refused("\x16\x03\x01\x02\x00\x01", Status::BadRequest);
        refused(
            &format!("GET / HTTP/1.1\r\nHost: {}", "x".repeat(MAX_HEAD_BYTES)),
            Status::HeadTooLarge,
        );
        refused(
            &format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(100)),
            Status::HeadTooLarge,
        );
        assert_eq!(parse(b""), Parsed::Incomplete);
        assert_eq!(parse(b"GET / HTTP/1.1\r\nHost: x\r\n"), Parsed::Incomplete);
    }

    #[test]
    fn answers() {
        let text =
            String::from_utf8(answer(Status::Ok, "text/plain", "hello", false, true)).unwrap();
        assert!(
            text.starts_with("HTTP/1.1 200 OK\r\n")
                && text.ends_with("\r\n\r\nhello")
                && text.contains("Content-Length: 5\r\n")
        );
        let text = String::from_utf8(answer(
            Status::MethodNotAllowed,
            "text/plain",
            "x",
            true,
            false,
        ))
        .unwrap();
        assert!(
            text.contains("Allow: GET, HEAD\r\n")
                && text.contains("Connection: close\r\n")
                && text.ends_with("\r\n\r\n")
        );
    }
}
