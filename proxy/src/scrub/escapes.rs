//! A text as encoders of URLs and of JSON write it: those that upstreams are written with. They differ in what they leave
//! as it is, and any choice could be made; fields are therefore read escape by escape (see [`super::spelling`]), and bodies
//! searched for the choices that are in use, and once more with their escapes undone (see [`super::unescaped`]).

use zeroize::Zeroizing;

const UPPER: &[u8; 16] = b"0123456789ABCDEF";
const LOWER: &[u8; 16] = b"0123456789abcdef";
/// What is left of a URL's text besides letters and digits when nothing else is (RFC 3986, 2.3): where the proxy itself puts
/// a secret into a query, Go's `url.QueryEscape`, Python's `quote_plus`.
const UNRESERVED: &[u8] = b"-._~";
/// What other encoders leave.
const LEFT: [&[u8]; 8] = [
    UNRESERVED,
    // Where the proxy puts a secret into a path.
    b"-._~:",
    // Python's urllib.parse.quote.
    b"-._~/",
    // Go's url.PathEscape, and url.URL's EscapedPath.
    b"-._~$&+=:@",
    b"-._~$&+,/:;=@",
    // JavaScript's encodeURIComponent, encodeURI and URLSearchParams.
    b"-._~!*'()",
    b"-._~!*'();,/?:@&=+$#",
    b"-._*",
];
/// What JSON text must escape (RFC 8259, 7), and what some encoders do besides: for HTML around it as `\u0026`.
const JSON: &[u8] = b"\"\\";
const JSON_AND_SLASH: &[u8] = b"\"\\/";
const HTML: &[u8] = b"&<>";

/// The text as each encoder here writes it, where that differs from the text itself. Some are the same.
pub fn all(text: &[u8]) -> impl Iterator<Item = Zeroizing<Vec<u8>>> {
    let digits = [UPPER, LOWER];
    let percents = digits.into_iter().flat_map(move |digits| LEFT.map(|left| percent(text, left, digits)));
    let html = [None, Some(UPPER), Some(LOWER)];
    let jsons = html
        .into_iter()
        .flat_map(move |html| [JSON, JSON_AND_SLASH].map(|escaped| json(text, escaped, html)));
    percents.chain(jsons).filter(move |form| form.as_slice() != text)
}

/// Percent-encoded but for letters, digits and what is left.
fn percent(text: &[u8], left: &[u8], digits: &[u8; 16]) -> Zeroizing<Vec<u8>> {
    let mut form = Zeroizing::new(Vec::with_capacity(3 * text.len()));
    for byte in text {
        if byte.is_ascii_alphanumeric() || left.contains(byte) {
            form.push(*byte);
        } else {
            form.push(b'%');
            form.extend(hex(*byte, digits));
        }
    }
    form
}

/// With a backslash before what is escaped, and what HTML reads as its number in these digits.
fn json(text: &[u8], escaped: &[u8], html: Option<&[u8; 16]>) -> Zeroizing<Vec<u8>> {
    let mut form = Zeroizing::new(Vec::with_capacity(6 * text.len()));
    for byte in text {
        match html {
            Some(digits) if HTML.contains(byte) => {
                form.extend_from_slice(b"\\u00");
                form.extend(hex(*byte, digits));
            }
            _ if escaped.contains(byte) => form.extend([b'\\', *byte]),
            _ => form.push(*byte),
        }
    }
    form
}

fn hex(byte: u8, digits: &[u8; 16]) -> [u8; 2] {
    [byte >> 4, byte & 0xf].map(|half| digits.get(usize::from(half)).copied().unwrap_or(b'0'))
}
