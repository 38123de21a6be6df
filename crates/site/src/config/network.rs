//! Networks from which requests are taken.

use std::net::IpAddr;
use std::str::FromStr;

use serde::Deserialize;

/// A network: an address and how many of its bits count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// Whether an address is in it. An IPv4 address within IPv6 is the IPv4 address.
    #[must_use]
    pub fn has(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                same(u32::from(network).into(), u32::from(address).into(), 32 - u32::from(self.bits))
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                same(network.into(), address.into(), 128 - u32::from(self.bits))
            }
            _ => false,
        }
    }
}

fn same(one: u128, other: u128, free_bits: u32) -> bool {
    one.checked_shr(free_bits).unwrap_or(0) == other.checked_shr(free_bits).unwrap_or(0)
}

impl TryFrom<String> for Network {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no network: write one as 10.0.0.0/8 or fd00::/8, or an address");
        let (address, bits) =
            text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), str::parse).map_err(|_| wrong())?;
        if bits > most { Err(wrong()) } else { Ok(Self { address, bits }) }
    }
}

#[cfg(test)]
mod tests {
    use super::Network;

    #[test]
    fn addresses_are_in_networks_or_not() {
        let has =
            |network: &str, address: &str| network.parse::<Network>().unwrap().has(address.parse().unwrap());
        assert!(has("10.0.0.0/8", "10.255.0.1") && !has("10.0.0.0/8", "11.0.0.1"));
        assert!(has("10.1.2.3", "10.1.2.3") && !has("10.1.2.3", "10.1.2.4"));
        assert!(has("0.0.0.0/0", "1.2.3.4") && has("10.0.0.0/8", "::ffff:10.1.1.1"));
        assert!(has("fd00::/8", "fd12::1") && !has("fd00::/8", "fe80::1") && !has("::/0", "1.2.3.4"));
        for text in ["", "x", "10.0.0.0/33", "10.0.0.0/-1", "::/129"] {
            text.parse::<Network>().unwrap_err();
        }
    }
}
