//! HTTP/2 inside TLS: a library's requests where they can be sent, and raw frames where no library would send them.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::client::TlsStream;

use crate::client::{Ended, Request, Told};
use crate::vector::Send;

/// Types of frames (RFC 9113, 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
/// END_STREAM and END_HEADERS.
const WHOLE: u8 = 5;
const ACK: u8 = 1;

/// Sends one request and gives back what was told.
pub async fn ask<S>(io: TlsStream<S>, request: &Request, send: &Send) -> Told
where
    S: AsyncRead + AsyncWrite + Unpin + std::marker::Send + 'static,
{
    if io.get_ref().1.alpn_protocol() != Some(b"h2") {
        return refusal(Vec::new(), None);
    }
    if !send.fields.is_empty() {
        return raw(io, request, send).await.unwrap_or_else(|_| refusal(Vec::new(), None));
    }
    by_library(io, request, send).await.unwrap_or_else(|_| refusal(Vec::new(), None))
}

fn refusal(bytes: Vec<u8>, status: Option<u16>) -> Told {
    Told { bytes, status, ended: Ended::Closed }
}

type BoxError = Box<dyn std::error::Error + std::marker::Send + Sync>;

async fn by_library<S>(io: TlsStream<S>, request: &Request, send: &Send) -> Result<Told, BoxError>
where
    S: AsyncRead + AsyncWrite + Unpin + std::marker::Send + 'static,
{
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await?;
    let running = tokio::spawn(connection);
    let uri = format!("https://{}{}", request.authority, request.path);
    let mut built = http::Request::builder().method(request.method.as_str()).uri(uri);
    for line in request.lines(send).split("\r\n").filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        built = built.header(name.to_lowercase(), value.trim());
    }
    let body = Full::new(Bytes::from(send.body.clone().unwrap_or_default()));
    let response = sender.send_request(built.body(body)?).await?;
    let (head, body) = response.into_parts();
    let mut told = format!("HTTP/2 {}\r\n", head.status.as_u16()).into_bytes();
    let write = |told: &mut Vec<u8>, fields: &http::HeaderMap| {
        for (name, value) in fields {
            told.extend_from_slice(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
    };
    write(&mut told, &head.headers);
    told.extend_from_slice(b"\r\n");
    // A body that is cut off is told as far as it came.
    if let Ok(body) = body.collect().await {
        let trailers = body.trailers().cloned().unwrap_or_default();
        told.extend_from_slice(&body.to_bytes());
        write(&mut told, &trailers);
    }
    running.abort();
    Ok(Told { bytes: told, status: Some(head.status.as_u16()), ended: Ended::Answered })
}

/// One stream whose header block is written by hand.
async fn raw<S>(mut io: TlsStream<S>, request: &Request, send: &Send) -> std::io::Result<Told>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut fields: Vec<(String, String)> = [
        (":method", request.method.as_str()),
        (":scheme", "https"),
        (":authority", request.authority.as_str()),
        (":path", request.path.as_str()),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec();
    for field in &send.fields {
        let (name, value) = field.split_once('|').unwrap_or((field, ""));
        match fields.iter_mut().find(|(known, _)| known == name) {
            Some(known) => known.1 = value.to_owned(),
            None => fields.push((name.to_owned(), value.to_owned())),
        }
    }
    // A field that is set to nothing is left out.
    fields.retain(|(_, value)| !value.is_empty());
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    bytes.extend(frame(HEADERS, WHOLE, 1, &block(&fields)));
    io.write_all(&bytes).await?;
    let (mut told, mut status) = (Vec::new(), None);
    loop {
        let mut head = [0; 9];
        io.read_exact(&mut head).await?;
        let [high, middle, low, kind, flags, ..] = head;
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        let mut payload = vec![0; length];
        io.read_exact(&mut payload).await?;
        match kind {
            SETTINGS if flags & ACK == 0 => io.write_all(&frame(SETTINGS, ACK, 0, &[])).await?,
            HEADERS if status.is_none() => status = status_of(&payload),
            DATA => told.extend_from_slice(&payload),
            RST_STREAM | GOAWAY => return Ok(refusal(told, status)),
            _ => {}
        }
        if matches!(kind, DATA | HEADERS) && flags & 1 == 1 {
            return Ok(Told { bytes: told, status, ended: Ended::Answered });
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let [_, high, middle, low] = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    [&[high, middle, low, kind, flags, 0, 0, 0, stream], payload].concat()
}

/// A header block of literals that enter no table (RFC 7541, 6.2.2).
fn block(fields: &[(String, String)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.extend(length(text.len()));
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// A length in seven bits, or more (RFC 7541, 5.1).
fn length(value: usize) -> Vec<u8> {
    let byte = |value: usize| u8::try_from(value & 0xff).unwrap_or(0);
    if value < 127 {
        return vec![byte(value)];
    }
    let (mut out, mut rest) = (vec![127], value - 127);
    while rest >= 128 {
        out.push(byte(rest % 128 + 128));
        rest /= 128;
    }
    out.push(byte(rest));
    out
}

/// The status in a header block, which is its first field: from the static table, or as three digits, plain or in Huffman's
/// code (RFC 7541, appendix B).
fn status_of(block: &[u8]) -> Option<u16> {
    let start = block.iter().position(|byte| byte & 0xe0 != 0x20)?;
    let (first, rest) = block.get(start..)?.split_first()?;
    if let Some(known) = (*first).checked_sub(0x88) {
        return [200, 204, 206, 304, 400, 404, 500].get(usize::from(known)).copied();
    }
    let (header, value) = rest.split_first()?;
    let value = value.get(..usize::from(header & 0x7f))?;
    if header & 0x80 == 0 {
        return std::str::from_utf8(value).ok()?.parse().ok();
    }
    let bits: Vec<u8> = value.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
    let number = |bits: &[u8]| bits.iter().fold(0_u16, |sum, bit| sum << 1 | u16::from(*bit));
    let (mut at, mut status) = (0, 0);
    for _ in 0..3 {
        // 0, 1 and 2 have five bits, the other digits six.
        let short = number(bits.get(at..at + 5)?);
        let (digit, taken) =
            if short < 3 { (short, 5) } else { ((number(bits.get(at..at + 6)?)).checked_sub(22)?, 6) };
        status = status * 10 + digit;
        at += taken;
    }
    Some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_in_each_of_its_spellings() {
        assert_eq!(status_of(&[0x88]), Some(200));
        assert_eq!(status_of(&[0x20, 0x8c]), Some(400));
        assert_eq!(status_of(&[0x48, 0x03, b'4', b'2', b'1']), Some(421));
        // RFC 7541, C.6.1: 302 in Huffman's code.
        assert_eq!(status_of(&[0x48, 0x82, 0x64, 0x02]), Some(302));
        assert_eq!(status_of(&[]), None);
    }

    #[test]
    fn a_long_text_has_a_long_length() {
        assert_eq!(length(126), [126]);
        assert_eq!(length(127), [127, 0]);
        // RFC 7541, C.1.2, with seven bits in place of five.
        assert_eq!(length(1337), [127, 186, 9]);
    }
}
