//! The names of this internet and the address of each.
//!
//! The table is fixed, so that a test can write an address down. Addresses look public: the proxy under test refuses private ones, and a
//! stand-in that needed an exception would not test the rule. They are taken from blocks whose real owners nobody in the
//! namespace can reach.

use std::net::Ipv4Addr;

/// The Anthropic API stand-in.
pub const ANTHROPIC: &str = "api.anthropic.com";
/// The OpenAI API stand-in: records, and answers 401 to every key but the one that a test has set.
pub const OPENAI: &str = "api.openai.com";
/// The git server.
pub const GIT: &str = "git.world.test";
/// The git server under the name that people use.
pub const GITHUB: &str = "github.com";
/// The Python index.
pub const PIP: &str = "pypi.world.test";
/// The Python index's upload host.
pub const PIP_UPLOAD: &str = "upload.pypi.world.test";
/// The npm registry.
pub const NPM: &str = "npm.world.test";
/// Answers with what it received.
pub const ECHO: &str = "echo.world.test";
/// An address of its own, for a server that a test brings.
pub const GRPC: &str = "grpc.world.test";
/// An address of its own, for a gateway that a test brings; by this name it speaks HTTP/1.1 alone.
pub const GATEWAY_HTTP1: &str = "envoy1.world.test";
/// The same gateway; by this name it speaks HTTP/2 alone.
pub const GATEWAY_HTTP2: &str = "envoy2.world.test";
/// Speaks to nobody who cannot show a certificate that the world's CA made for a client.
pub const PARTNER: &str = "partner.world.test";
/// Where nothing should ever arrive.
pub const EVIL: &str = "evil.world.test";
/// Every name below this exists, at [`OTHERS_ADDRESS`].
pub const ZONE: &str = "world.test";

/// The git server's address: it terminates TLS itself and so owns the address.
pub const GIT_ADDRESS: Ipv4Addr = Ipv4Addr::new(140, 82, 121, 4);
/// The organisation's own proxy, which asks for [`PROXY_USER`] and [`PROXY_PASSWORD`].
pub const PROXY: &str = "proxy.world.test";
/// Its address, on which it listens itself.
pub const PROXY_ADDRESS: Ipv4Addr = Ipv4Addr::new(93, 184, 215, 31);
/// Its port.
pub const PROXY_PORT: u16 = 3128;
/// Who may use it.
pub const PROXY_USER: &str = "agents";
/// With this password.
pub const PROXY_PASSWORD: &str = "proxy-real-93c1f07a55d24be8";
/// The address of every name below [`ZONE`] that has no line of its own.
pub const OTHERS_ADDRESS: Ipv4Addr = Ipv4Addr::new(93, 184, 215, 200);

/// A name that resolves to a private address: what DNS rebinding looks like.
pub const REBIND_PRIVATE: &str = "private.rebind.world.test";
/// A name that resolves to the metadata address.
pub const REBIND_METADATA: &str = "metadata.rebind.world.test";
/// A name that resolves to loopback.
pub const REBIND_LOOPBACK: &str = "loopback.rebind.world.test";

/// Every name with an address of its own.
pub const TABLE: &[(&str, Ipv4Addr)] = &[
    (ANTHROPIC, Ipv4Addr::new(160, 79, 104, 10)),
    (OPENAI, Ipv4Addr::new(162, 159, 140, 245)),
    (GIT, GIT_ADDRESS),
    (GITHUB, GIT_ADDRESS),
    (PIP, Ipv4Addr::new(151, 101, 0, 223)),
    (PIP_UPLOAD, Ipv4Addr::new(151, 101, 64, 223)),
    (NPM, Ipv4Addr::new(104, 16, 24, 34)),
    (ECHO, Ipv4Addr::new(93, 184, 215, 14)),
    (GRPC, Ipv4Addr::new(93, 184, 215, 50)),
    (GATEWAY_HTTP1, Ipv4Addr::new(93, 184, 215, 51)),
    (GATEWAY_HTTP2, Ipv4Addr::new(93, 184, 215, 51)),
    (PROXY, PROXY_ADDRESS),
    (PARTNER, Ipv4Addr::new(93, 184, 215, 60)),
    (EVIL, Ipv4Addr::new(93, 184, 215, 66)),
    (REBIND_PRIVATE, Ipv4Addr::new(10, 0, 0, 1)),
    (REBIND_METADATA, Ipv4Addr::new(169, 254, 169, 254)),
    (REBIND_LOOPBACK, Ipv4Addr::LOCALHOST),
];

/// The address of a name, or none where the name does not exist. Case and a final dot do not matter.
#[must_use]
pub fn address_of(name: &str) -> Option<Ipv4Addr> {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    if let Some((_, address)) = TABLE.iter().find(|(known, _)| *known == name) {
        return Some(*address);
    }
    let below_zone = name.strip_suffix(ZONE).is_some_and(|head| head.ends_with('.'));
    below_zone.then_some(OTHERS_ADDRESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listed_name_has_its_address_in_any_case_with_or_without_the_final_dot() {
        for name in ["api.anthropic.com", "API.Anthropic.com.", "api.anthropic.com."] {
            assert_eq!(address_of(name), Some(Ipv4Addr::new(160, 79, 104, 10)), "{name}");
        }
    }

    #[test]
    fn every_name_below_the_zone_exists_and_no_other_does() {
        assert_eq!(address_of("a.b.world.test"), Some(OTHERS_ADDRESS));
        for name in ["world.test", "evilworld.test", "example.com", "", "."] {
            assert_eq!(address_of(name), None, "{name}");
        }
    }

    #[test]
    fn only_the_rebinding_names_have_addresses_that_are_not_public() {
        for (name, address) in TABLE {
            let special = address.is_private() || address.is_loopback() || address.is_link_local();
            assert_eq!(special, name.contains(".rebind."), "{name}");
        }
    }
}
