//! What the network cards of a recovered machine are connected to.

use std::str::FromStr;

use super::words::InterfaceName;
use crate::qemu::definition::MachineDefinition;

/// What a network card is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// To nothing: the guest sees a card without a cable.
    None,
    /// To a network of QEMU's own, from which the guest reaches out through this host and cannot be reached.
    User,
    /// To a bridge of this host.
    Bridge(InterfaceName),
    /// To a tap interface of this host that is there already.
    Tap(InterfaceName),
}

/// What a person wants the cards to be connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Network {
    /// All to the same.
    All(Link),
    /// Each as it was, where the command line of the machine tells.
    Keep,
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            None if text == "none" => Ok(Self::All(Link::None)),
            None if text == "user" => Ok(Self::All(Link::User)),
            None if text == "keep" => Ok(Self::Keep),
            Some(("bridge", name)) => Ok(Self::All(Link::Bridge(name.parse()?))),
            Some(("tap", name)) => Ok(Self::All(Link::Tap(name.parse()?))),
            _ => Err(format!("{text:?} is not a network: use none, user, bridge=NAME, tap=NAME or keep")),
        }
    }
}

impl Link {
    /// Whether other machines see the card's address.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Bridge(_) | Self::Tap(_))
    }
}

/// The links that the command line of a machine names, in its order; none where it does not tell them all.
pub(super) fn of_command_line(definition: &MachineDefinition) -> Option<Vec<Link>> {
    let line = &definition.command_line;
    line.iter()
        .zip(line.iter().skip(1))
        .filter(|(option, _)| ["-netdev", "-nic", "--netdev", "--nic"].contains(&option.as_str()))
        .map(|(_, value)| link(value))
        .collect()
}

fn link(value: &str) -> Option<Link> {
    let mut parts = value.split(',');
    let kind = parts.next()?;
    let parts: Vec<_> = parts.filter_map(|part| part.split_once('=')).collect();
    let named = |key: &str| parts.iter().find(|(name, _)| *name == key)?.1.parse().ok();
    match kind.strip_prefix("type=").unwrap_or(kind) {
        "user" => Some(Link::User),
        "bridge" => Some(Link::Bridge(named("br")?)),
        // With `br` QEMU's helper makes the interface and joins it to that bridge.
        "tap" => named("ifname").map(Link::Tap).or_else(|| named("br").map(Link::Bridge)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_read_and_options_beside_them_are_not_taken_over() {
        let bridge = |name: &str| Link::Bridge(name.parse().unwrap());
        assert_eq!(link("user,id=n0,smb=/etc,hostfwd=tcp::22-:22"), Some(Link::User));
        assert_eq!(link("bridge,br=br0,helper=/bin/evil"), Some(bridge("br0")));
        assert_eq!(link("tap,script=/bin/evil,ifname=tap0"), Some(Link::Tap("tap0".parse().unwrap())));
        assert_eq!(link("tap,id=n0,fd=30"), None);
        assert_eq!(link("bridge,br=$(evil)"), None);
        assert_eq!("bridge=br1".parse(), Ok(Network::All(bridge("br1"))));
        assert!("bridge=a,b".parse::<Network>().is_err() && "vde".parse::<Network>().is_err());
    }
}
