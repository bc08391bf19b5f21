//! The versions of the CNI spec that are spoken here.

use std::fmt;
use std::str::FromStr;

/// A version of the CNI spec, older ones first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// 0.1.0: one IPv4 and one IPv6 address.
    V0_1_0,
    /// 0.2.0: 0.1.0 with VERSION.
    V0_2_0,
    /// 0.3.0: interfaces, any number of addresses, chains.
    V0_3_0,
    /// 0.3.1
    V0_3_1,
    /// 0.4.0: CHECK.
    V0_4_0,
    /// 1.0.0: no `version` in addresses, no single configs.
    V1_0_0,
    /// 1.1.0: GC, STATUS, more attributes of routes and interfaces.
    V1_1_0,
}

impl Version {
    /// Every version, oldest first.
    pub const ALL: &'static [Self] =
        &[Self::V0_1_0, Self::V0_2_0, Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];
    /// The newest.
    pub const CURRENT: Self = Self::V1_1_0;
    /// What a config without `cniVersion` means.
    pub(crate) const UNSTATED: Self = Self::V0_1_0;

    /// As it is written in configs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_1_0 => "0.1.0",
            Self::V0_2_0 => "0.2.0",
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// The versions whose results have the same shape as this one's.
    pub(crate) fn family(self) -> &'static [Self] {
        match self {
            Self::V0_1_0 | Self::V0_2_0 => &[Self::V0_1_0, Self::V0_2_0],
            Self::V0_3_0 | Self::V0_3_1 | Self::V0_4_0 => &[Self::V0_3_0, Self::V0_3_1, Self::V0_4_0],
            Self::V1_0_0 | Self::V1_1_0 => &[Self::V1_0_0, Self::V1_1_0],
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Not a version of the CNI spec that is known here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown CNI version \"{0}\"")]
pub struct UnknownVersion(String);

impl FromStr for Version {
    type Err = UnknownVersion;

    /// Only the exact text: `0.4` is no version.
    fn from_str(text: &str) -> Result<Self, UnknownVersion> {
        Self::ALL.iter().copied().find(|v| v.as_str() == text).ok_or_else(|| UnknownVersion(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        for version in Version::ALL {
            assert_eq!(version.to_string().parse(), Ok(*version));
            assert!(version.family().contains(version));
        }
        assert!(Version::ALL.is_sorted());
        for text in ["", "0.4", "1.0.0 ", "v1.0.0", "1.2.0", "1.0.0-rc1"] {
            assert_eq!(text.parse::<Version>(), Err(UnknownVersion(text.to_owned())));
        }
    }
}
