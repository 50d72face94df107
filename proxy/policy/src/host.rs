//! Hosts in their one canonical spelling.
//!
//! Every way to write a name that resolvers, TLS stacks and servers treat as equal becomes the same [`Host`]: UTS 46
//! without transitional mappings, lower case, A-labels, at most one trailing dot dropped. Every way to write an address
//! that some C library would dial becomes that address, for the judge must not be stricter about numbers than a dialler.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};

use crate::Malformed;

/// Bytes of a host before canonicalisation; each character of a legal name takes at most four.
const HOST_BYTES_MAX: usize = 4 * 253;
/// RFC 1035, 2.3.4, without the dot of the root.
const NAME_BYTES_MAX: usize = 253;
/// RFC 1035, 2.3.4.
const LABEL_BYTES_MAX: usize = 63;
/// Names of metadata services. They are denied whatever a rule says, before they are resolved.
const METADATA_NAMES: [&str; 5] = [
    "instance-data",
    "instance-data.ec2.internal",
    "metadata",
    "metadata.azure.internal",
    "metadata.google.internal",
];

/// A DNS name or an IP address in the one spelling that is judged, dialled and sent. A clone shares its text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Host {
    text: Arc<str>,
    address: Option<IpAddr>,
}

impl Host {
    /// Reads a host as it stands in an authority: a name, an IPv4 address in any notation, or an IPv6 address in
    /// brackets.
    ///
    /// # Errors
    /// [`Malformed`] when the text is not a host, or is one in more than one way.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        if text.is_empty() || text.len() > HOST_BYTES_MAX {
            return Err(Malformed::host("it must have 1 to 253 characters"));
        }
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or(Malformed::host("its bracket is not closed"))?;
            let address: Ipv6Addr =
                inner.parse().map_err(|_| Malformed::host("its brackets do not hold an IPv6 address"))?;
            return Ok(IpAddr::V6(address).into());
        }
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            // This reads the canonical spelling alone.
            return Ok(Self { text: text.into(), address: Some(IpAddr::V4(address)) });
        }
        let name: Arc<str> = if is_canonical(text) { text.into() } else { canonical_name(text)?.into() };
        let last = name.rsplit('.').next().unwrap_or_default();
        if is_number(last) {
            return ipv4(&name).map(|address| IpAddr::V4(address).into());
        }
        Ok(Self { text: name, address: None })
    }

    /// The host as it stands in an authority; an IPv6 address is in brackets.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The same text, to be kept without a copy.
    #[must_use]
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.text)
    }

    /// The address, when the host is one. IPv4 in IPv6 clothes is IPv4.
    #[must_use]
    pub const fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// Whether this is the name of a cloud's metadata service.
    pub(crate) fn is_metadata_name(&self) -> bool {
        METADATA_NAMES.contains(&self.as_str())
    }
}

impl From<IpAddr> for Host {
    fn from(address: IpAddr) -> Self {
        let address = address.to_canonical();
        let text = match address {
            IpAddr::V4(v4) => v4.to_string(),
            IpAddr::V6(v6) => format!("[{v6}]"),
        };
        Self { text: text.into(), address: Some(address) }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Reads `host:port`, or `host` when there is a default port. Nothing else: no user name, no empty port, no sign, no
/// leading zero, no port 0.
///
/// # Errors
/// [`Malformed`] when the text is not exactly that.
pub fn parse_authority(text: &str, default_port: Option<u16>) -> Result<(Host, u16), Malformed> {
    // The colons of an IPv6 address are inside its brackets.
    let bracket = text.rfind(']').unwrap_or(0);
    let (host, port) = match text[bracket..].find(':') {
        Some(colon) => {
            let (host, port) = text.split_at(bracket + colon);
            (host, Some(parse_port(&port[1..])?))
        }
        None => (text, default_port),
    };
    let port = port.ok_or(Malformed::port("it is missing"))?;
    Ok((Host::parse(host)?, port))
}

fn parse_port(text: &str) -> Result<u16, Malformed> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    let port = if plain { text.parse().ok() } else { None };
    port.ok_or(Malformed::port("it must be a number from 1 to 65535 without leading zeros"))
}

/// Whether a name is spelled as UTS 46 would spell it, as most are: labels of ASCII in lower case, none of them encoded.
fn is_canonical(text: &str) -> bool {
    let plain =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.');
    let label = |label: &str| (1..=LABEL_BYTES_MAX).contains(&label.len()) && !label.starts_with("xn--");
    text.len() <= NAME_BYTES_MAX && text.bytes().all(plain) && text.split('.').all(label)
}

fn canonical_name(text: &str) -> Result<String, Malformed> {
    let ascii = Uts46::new()
        .to_ascii(text.as_bytes(), AsciiDenyList::URL, Hyphens::Allow, DnsLength::VerifyAllowRootDot)
        .map_err(|_| Malformed::host("it is not a valid DNS name"))?;
    let name = ascii.strip_suffix('.').unwrap_or(&ascii);
    // The underscore is no part of a host name by RFC 952, yet real hosts have it.
    let legal =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || !name.bytes().all(legal) {
        return Err(Malformed::host("a DNS name holds letters, digits, hyphens and dots only"));
    }
    Ok(name.to_owned())
}

/// Whether a last label makes the whole host an IPv4 address, as the WHATWG URL standard and inet_aton have it.
fn is_number(label: &str) -> bool {
    let decimal = !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_digit());
    let hexadecimal =
        label.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    decimal || hexadecimal
}

/// One to four numbers, each decimal, octal or hexadecimal; the last fills the bytes that remain.
fn ipv4(name: &str) -> Result<Ipv4Addr, Malformed> {
    let malformed = Malformed::host("it ends in a number but is not an IPv4 address");
    let numbers = name.split('.').map(number).collect::<Option<Vec<u64>>>().ok_or(malformed)?;
    let (last, leading) = numbers.split_last().ok_or(malformed)?;
    if leading.len() > 3 || leading.iter().any(|part| *part > 255) {
        return Err(malformed);
    }
    let rest_bits = 8 * (4 - leading.len());
    if *last >= 1_u64 << rest_bits {
        return Err(malformed);
    }
    let high = leading.iter().fold(0_u64, |sum, part| (sum << 8) | part);
    u32::try_from((high << rest_bits) | last).map(Ipv4Addr::from).map_err(|_| malformed)
}

fn number(part: &str) -> Option<u64> {
    let (digits, radix) = match (part.strip_prefix("0x"), part.strip_prefix('0')) {
        // Zero in the URL standard, and a name for every C library.
        (Some(""), _) => return None,
        (Some(digits), _) => (digits, 16),
        (None, Some(digits)) if !digits.is_empty() => (digits, 8),
        (None, _) => (part, 10),
    };
    // from_str_radix would take a sign.
    if digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        u64::from_str_radix(digits, radix).ok()
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
