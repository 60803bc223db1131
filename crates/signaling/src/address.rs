//! Where a client comes from, also behind proxies, and how many sessions one address may have.
//!
//! A forwarding header counts only where a proxy that is named in the settings says it: anybody else could claim to be
//! anyone. Of the list in `X-Forwarded-For`, that is the last entry which is no such proxy's own.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};

/// Entries of a forwarding header that are looked at, from its end. Nobody has as many proxies of his own in a row.
const MAX_HOPS: usize = 16;

/// A network by its prefix, for example `10.0.0.0/8`; an address alone is a network of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// A text that names no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no network: write an address, or one with a prefix like 10.0.0.0/8")]
pub struct NetworkError(String);

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let wrong = || NetworkError(text.chars().take(64).collect());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.trim().parse().map_err(|_| wrong())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(longest), |prefix| prefix.trim().parse().map_err(|_| wrong()))?;
        if prefix > longest {
            return Err(wrong());
        }
        Ok(Self { address, prefix })
    }
}

impl TryFrom<String> for Network {
    type Error = NetworkError;

    fn try_from(text: String) -> Result<Self, NetworkError> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        format!("{}/{}", network.address, network.prefix)
    }
}

impl Network {
    /// Whether this address lies in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let beyond = 32_u32.saturating_sub(self.prefix.into());
                (own.to_bits() ^ other.to_bits()).checked_shr(beyond).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let beyond = 128_u32.saturating_sub(self.prefix.into());
                (own.to_bits() ^ other.to_bits()).checked_shr(beyond).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// Where a client is, whose connection comes from `connected_from`. Where that is a trusted proxy, the header tells.
pub(crate) fn client_address(connected_from: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let connected_from = connected_from.to_canonical();
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    if !is_trusted(connected_from) {
        return connected_from;
    }
    let mut client = connected_from;
    // Several headers are one list (RFC 9110 section 5.2).
    let lists = headers.get_all("x-forwarded-for").iter().rev();
    let hops = lists.filter_map(|list| list.to_str().ok()).flat_map(|list| list.rsplit(','));
    for hop in hops.take(MAX_HOPS) {
        // What cannot be read was said by whoever is before the last good one.
        let Some(address) = address_of(hop.trim()) else { break };
        client = address;
        if !is_trusted(address) {
            break;
        }
    }
    client
}

/// Some proxies write the port as well.
fn address_of(hop: &str) -> Option<IpAddr> {
    let address = hop.parse::<IpAddr>().ok().or_else(|| {
        hop.parse::<std::net::SocketAddr>().ok().map(|address| address.ip()).or_else(|| {
            hop.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).and_then(|inner| inner.parse().ok())
        })
    });
    address.map(|address| address.to_canonical())
}

/// Sessions by the address that they come from. Clones count together.
#[derive(Debug, Clone, Default)]
pub(crate) struct AddressCounts(Arc<Mutex<HashMap<IpAddr, usize>>>);

impl AddressCounts {
    /// A place for one more session from here, given back when dropped; `None` where there are as many as allowed. This
    /// machine itself is not counted: it runs proxies, and tests.
    pub(crate) fn take(&self, address: IpAddr, limit: usize) -> Option<AddressPlace> {
        if limit == 0 || address.is_loopback() {
            return Some(AddressPlace(None));
        }
        let key = site(address);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(key).or_default();
        if *count >= limit {
            return None;
        }
        *count = count.saturating_add(1);
        Some(AddressPlace(Some((self.clone(), key))))
    }
}

/// What one customer has: an IPv4 address, or a network of IPv6 (RFC 6177).
fn site(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

/// A session's place among those of its address.
#[derive(Debug)]
pub(crate) struct AddressPlace(Option<(AddressCounts, IpAddr)>);

impl Drop for AddressPlace {
    fn drop(&mut self) {
        let Some((counts, key)) = &self.0 else { return };
        let mut counts = counts.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(key) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn networks(texts: &[&str]) -> Vec<Network> {
        texts.iter().map(|text| text.parse().expect("a network")).collect()
    }

    #[test]
    fn a_network_holds_what_its_prefix_says() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("0.0.0.0/0", "203.0.113.9", "::1"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::1"),
            ("::/0", "2001:db8::1", "10.0.0.1"),
        ] {
            let [network] = networks(&[network])[..] else { panic!("one") };
            assert!(network.contains(ip(inside)) && !network.contains(ip(outside)), "{network:?}");
        }
        for wrong in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "10.0.0.0/-1", "proxy"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_a_trusted_proxy_says_where_a_client_is() {
        let trusted = networks(&["10.0.0.0/8", "2001:db8::1"]);
        for (from, headers, client) in [
            // Anybody can write the header.
            ("203.0.113.5", &["198.51.100.1"][..], "203.0.113.5"),
            ("10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            ("::ffff:10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            // The client wrote the first two, the proxies the others.
            ("10.0.0.1", &["1.1.1.1, 2.2.2.2, 198.51.100.1, 10.0.0.2"], "198.51.100.1"),
            ("10.0.0.1", &["1.1.1.1", "198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &["198.51.100.1:443"], "198.51.100.1"),
            ("2001:db8::1", &["[2001:db8:5::9]:443"], "2001:db8:5::9"),
            ("10.0.0.1", &["[2001:db8:5::9]"], "2001:db8:5::9"),
            ("10.0.0.1", &["1.1.1.1, unknown, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", &[], "10.0.0.1"),
        ] {
            let mut map = HeaderMap::new();
            for header in headers {
                map.append("x-forwarded-for", header.parse().expect("a header"));
            }
            assert_eq!(client_address(ip(from), &map, &trusted), ip(client), "{from} {headers:?}");
        }
    }

    #[test]
    fn an_address_has_so_many_places_and_gets_them_back() {
        let counts = AddressCounts::default();
        let places: Vec<_> = (0..2).map(|_| counts.take(ip("192.0.2.1"), 2).expect("a place")).collect();
        assert!(counts.take(ip("192.0.2.1"), 2).is_none());
        assert!(counts.take(ip("192.0.2.2"), 2).is_some());
        drop(places);
        assert!(counts.0.lock().expect("unpoisoned").is_empty());
        // One customer's network, and the next one's.
        let _first = counts.take(ip("2001:db8:0:1::5"), 1).expect("a place");
        assert!(counts.take(ip("2001:db8:0:1:ffff::6"), 1).is_none());
        assert!(counts.take(ip("2001:db8:0:2::5"), 1).is_some());
        for _ in 0..3 {
            assert!(counts.take(ip("127.0.0.1"), 1).is_some() && counts.take(ip("192.0.2.9"), 0).is_some());
        }
    }
}
