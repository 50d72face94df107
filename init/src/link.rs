//! The link that IPv6 has even where a cluster is of IPv4 only: which addresses this pod has on it, and who else may be there.
//!
//! A kernel with IPv6 gives each interface an address for the link alone (`fe80::/10`). A policy engine that judges IPv4 does
//! not see what is sent there: neither to the node nor to other pods on the same bridge. gVisor takes the address over. Only the
//! kernel's own lists are read here; trying is [`crate::probe`]'s business.

use std::io;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use tokio::time::sleep;

/// Where the kernel lists the IPv6 addresses of this pod.
const ADDRESSES: &str = "/proc/net/if_inet6";
/// Where it lists those that it has spoken to by IPv4, with their hardware's addresses.
const NEIGHBOURS: &str = "/proc/net/arp";
/// The kernel still asks whether somebody else has the address, for a second or two: nothing is sent from it until then.
const TENTATIVE: u8 = 0x40;
/// Somebody else has it, and so it is never used.
const DUPLICATE: u8 = 0x08;
/// Pause between two looks at an address that is tentative.
const PAUSE: Duration = Duration::from_millis(20);

/// An IPv6 address of this pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// The address.
    pub address: Ipv6Addr,
    /// Number of its interface.
    pub scope: u32,
    /// Name of its interface.
    pub interface: String,
    flags: u8,
}

impl Own {
    fn is_on_link(&self) -> bool {
        self.address.is_unicast_link_local() && self.flags & DUPLICATE == 0
    }

    fn is_tentative(&self) -> bool {
        self.is_on_link() && self.flags & TENTATIVE != 0
    }
}

/// What can be tried on the links of this pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links {
    /// Numbers of the interfaces that have an address for their link; none means that there is no such link.
    pub scopes: Vec<u32>,
    /// Addresses that neighbours known by IPv4 have where their kernel makes them of the hardware's, each with the number of
    /// the interface.
    pub neighbours: Vec<(Ipv6Addr, u32)>,
}

/// Reads this pod's addresses; a kernel without IPv6 has none.
///
/// # Errors
/// When the kernel's list cannot be read or is of another form.
pub fn own() -> io::Result<Vec<Own>> {
    addresses(&listed(ADDRESSES)?)
}

/// Reads the links, once none of their addresses is tentative any more or the deadline has passed.
///
/// # Errors
/// When one of the kernel's lists cannot be read or is of another form.
pub async fn read(deadline: Instant) -> io::Result<Links> {
    let mut own = own()?;
    while own.iter().any(Own::is_tentative) && Instant::now() < deadline {
        sleep(PAUSE).await;
        own = self::own()?;
    }
    links(&own, &listed(NEIGHBOURS)?)
}

/// That something can be sent on a link.
///
/// # Errors
/// `EAGAIN` while an address there is tentative: silence would be no evidence.
pub fn check_settled(own: &[Own], scope: u32) -> io::Result<()> {
    if own.iter().any(|own| own.scope == scope && own.is_tentative()) {
        Err(Errno::AGAIN.into())
    } else {
        Ok(())
    }
}

fn listed(path: &str) -> io::Result<String> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read,
    }
}

fn addresses(list: &str) -> io::Result<Vec<Own>> {
    list.lines().map(|line| address(line).ok_or_else(|| unknown(ADDRESSES, line))).collect()
}

/// `fe80…64 digits 02 40 20 80 eth0`: address, number of the interface, prefix, scope, flags, name.
fn address(line: &str) -> Option<Own> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [address, scope, _, _, flags, interface] = words[..] else { return None };
    Some(Own {
        address: Ipv6Addr::from_bits(u128::from_str_radix(address, 16).ok()?),
        scope: u32::from_str_radix(scope, 16).ok()?,
        interface: interface.to_owned(),
        flags: u8::from_str_radix(flags, 16).ok()?,
    })
}

fn links(own: &[Own], neighbours: &str) -> io::Result<Links> {
    let on_link: Vec<&Own> = own.iter().filter(|own| own.is_on_link()).collect();
    let mut links = Links { scopes: on_link.iter().map(|own| own.scope).collect(), neighbours: Vec::new() };
    links.scopes.sort_unstable();
    links.scopes.dedup();
    // The first line names the columns.
    for line in neighbours.lines().skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, _, _, hardware, _, interface] = words[..] else { return Err(unknown(NEIGHBOURS, line)) };
        let Some(address) = of_hardware(hardware) else { continue };
        let scopes = on_link.iter().filter(|own| own.interface == interface).map(|own| own.scope);
        links.neighbours.extend(scopes.map(|scope| (address, scope)));
    }
    Ok(links)
}

/// The address that a kernel makes of its hardware's (RFC 4291, appendix A); `None` where the hardware's is not known.
fn of_hardware(hardware: &str) -> Option<Ipv6Addr> {
    let bytes: Vec<u8> =
        hardware.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>().ok()?;
    let [a, b, c, d, e, f] = bytes[..] else { return None };
    if bytes.iter().all(|byte| *byte == 0) {
        return None;
    }
    let [ab, cf, fd, ef] = [[a ^ 2, b], [c, 0xff], [0xfe, d], [e, f]].map(u16::from_be_bytes);
    Some(Ipv6Addr::new(0xfe80, 0, 0, 0, ab, cf, fd, ef))
}

fn unknown(path: &str, line: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{path} has a line of an unknown form: {line:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLED: &str = "\
fe80000000000000600374fffed8a063 02 40 20 80     eth0
00000000000000000000000000000001 01 80 10 80       lo
fd000000000000000000000000000002 02 40 00 80     eth0
";
    const NEIGHBOUR: &str = "\
IP address       HW type     Flags       HW address            Mask     Device
10.244.0.1       0x1         0x2         d2:d0:e1:d8:c7:e3     *        eth0
10.244.0.7       0x1         0x0         00:00:00:00:00:00     *        eth0
10.244.0.8       0x1         0x2         d2:d0:e1:d8:c7:e4     *        eth9
";

    fn told(list: &str, neighbours: &str) -> Links {
        links(&addresses(list).unwrap(), neighbours).unwrap()
    }

    #[test]
    fn a_pod_without_an_address_for_its_link_has_no_link() {
        for list in ["", "00000000000000000000000000000001 01 80 10 80 lo\n"] {
            assert_eq!(told(list, NEIGHBOUR), Links::default(), "{list}");
        }
        assert_eq!(told(SETTLED, "").scopes, [2], "with one it has");
    }

    #[test]
    fn neighbours_on_a_link_are_found_by_their_hardware() {
        let expected = ("fe80::d0d0:e1ff:fed8:c7e3".parse().unwrap(), 2);
        assert_eq!(told(SETTLED, NEIGHBOUR).neighbours, [expected]);
    }

    #[test]
    fn a_link_whose_address_is_tentative_is_one_and_cannot_be_tried_yet() {
        let list = SETTLED.replacen(" 80     eth0", " c0     eth0", 1);
        let tentative = addresses(&list).unwrap();
        assert_eq!(told(&list, "").scopes, [2]);
        assert_eq!(
            check_settled(&tentative, 2).unwrap_err().raw_os_error(),
            Some(Errno::AGAIN.raw_os_error())
        );
        check_settled(&tentative, 1).unwrap();
        check_settled(&addresses(SETTLED).unwrap(), 2).unwrap();
    }

    #[test]
    fn an_address_that_somebody_else_has_is_waited_for_no_more() {
        let duplicate = SETTLED.replacen(" 80     eth0", " c8     eth0", 1);
        check_settled(&addresses(&duplicate).unwrap(), 2).unwrap();
        assert_eq!(told(&duplicate, NEIGHBOUR), Links::default());
    }

    #[test]
    fn a_list_of_an_unknown_form_is_an_error_and_not_an_empty_one() {
        for line in ["fe80", "x 02 40 20 80 eth0", "fe80000000000000600374fffed8a063 02 40 20 eth0"] {
            assert!(addresses(line).is_err(), "{line}");
        }
        assert!(links(&addresses(SETTLED).unwrap(), "columns\nshort line\n").is_err());
    }

    #[test]
    fn the_lists_of_this_kernel_can_be_read() {
        links(&own().unwrap(), &listed(NEIGHBOURS).unwrap()).unwrap();
    }
}
