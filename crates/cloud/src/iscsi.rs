//! LUNs of iSCSI, which providers attach to machines.
//!
//! The initiator is a program, QEMU's driver: nothing of the kernel is configured, and no device appears. Passwords (CHAP) are
//! not spoken.

use std::fmt;
use std::net::SocketAddr;

use crate::bridge::{Options, Turn};
use crate::{Error, Result};

/// The longest name of a target (RFC 7143).
const IQN_BYTES_MAX: usize = 223;

/// A LUN of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lun {
    portal: SocketAddr,
    iqn: String,
    number: u16,
}

impl Lun {
    /// The LUN of a target at a portal.
    ///
    /// # Errors
    /// Refused: the target's name is none.
    pub fn new(portal: SocketAddr, iqn: &str, number: u16) -> Result<Self> {
        let is_sound = (1..=IQN_BYTES_MAX).contains(&iqn.len())
            && iqn.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:_".contains(&byte))
            && ["iqn.", "eui.", "naa."].iter().any(|kind| iqn.starts_with(kind));
        if is_sound {
            return Ok(Self { portal, iqn: iqn.to_owned(), number });
        }
        Err(Error::Refused {
            peer: portal.to_string(),
            what: format!("{iqn:?} is no name of an iSCSI target"),
        })
    }

    /// Waits until this machine's other processes have done with the LUN.
    pub(crate) fn turn(&self) -> Result<Turn> {
        let peer = self.to_string();
        Turn::take(&peer, &peer)
    }

    /// The LUN in QEMU's words.
    pub(crate) fn options(&self) -> Options {
        let values = vec![
            ("transport", "tcp".to_owned()),
            ("portal", self.portal.to_string()),
            ("target", self.iqn.clone()),
            ("lun", self.number.to_string()),
        ];
        Options { driver: "iscsi", values }
    }
}

impl fmt::Display for Lun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "iscsi://{}/{}/{}", self.portal, self.iqn, self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lun_is_told_to_people_and_to_qemu() {
        let lun = Lun::new("[fd00::1]:3260".parse().unwrap(), "iqn.2015-12.com.x:v1", 1).unwrap();
        assert_eq!(lun.to_string(), "iscsi://[fd00::1]:3260/iqn.2015-12.com.x:v1/1");
        let told = lun.options().values;
        assert!(told.contains(&("portal", "[fd00::1]:3260".to_owned())), "{told:?}");
        for wrong in ["", "x", "iqn.a/b", "iqn.a b", "iqn.a,file.lun=2", &format!("iqn.{}", "a".repeat(300))]
        {
            assert!(Lun::new("127.0.0.1:1".parse().unwrap(), wrong, 1).is_err(), "{wrong:?}");
        }
    }
}
