//! H.264's `profile-level-id` (RFC 6184 section 8.1): what it says, and which one answers an offer (section 8.2.2).

use std::fmt;

use crate::parameter_value::{ParameterMap, ParameterValue};

const CONSTRAINT_SET3: u8 = 0x10;

/// A profile that WebRTC endpoints use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum H264Profile {
    /// Baseline without what Main lacks: what browsers offer first.
    ConstrainedBaseline,
    /// Baseline.
    Baseline,
    /// Main.
    Main,
    /// High without interlacing.
    ConstrainedHigh,
    /// High.
    High,
    /// High 4:4:4 Predictive.
    PredictiveHigh444,
}

/// A level: ten times its usual number, with 1b between 1 and 1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct H264Level(u16);

impl H264Level {
    /// Level 1b.
    pub const L1_B: Self = Self(105);
    /// Level 3.1: what holds when nothing is said.
    pub const L3_1: Self = Self(310);

    /// The level of this `level_idc`, where there is one. (Level 1b has the `level_idc` of 1.1.)
    #[must_use]
    pub fn from_idc(idc: u8) -> Option<Self> {
        let known = matches!(idc, 10..=13 | 20..=22 | 30..=32 | 40..=42 | 50..=52);
        known.then(|| Self(u16::from(idc) * 10))
    }

    fn idc(self) -> u16 {
        if self == Self::L1_B { 11 } else { self.0 / 10 }
    }
}

/// A profile and a level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProfileLevelId {
    /// The profile.
    pub profile: H264Profile,
    /// The level.
    pub level: H264Level,
}

impl Default for ProfileLevelId {
    /// What an endpoint means that does not say.
    fn default() -> Self {
        Self { profile: H264Profile::ConstrainedBaseline, level: H264Level::L3_1 }
    }
}

impl ProfileLevelId {
    /// Reads six hexadecimal digits: `profile_idc`, constraint flags, `level_idc`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 6 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        let [_, profile_idc, flags, level_idc] = u32::from_str_radix(text, 16).ok()?.to_be_bytes();
        let level = if level_idc == 11 && flags & CONSTRAINT_SET3 != 0 {
            H264Level::L1_B
        } else {
            H264Level::from_idc(level_idc)?
        };
        Some(Self { profile: profile(profile_idc, flags)?, level })
    }

    /// Reads the `profile-level-id` parameter; the default where it is absent, `None` where it is wrong.
    pub(crate) fn of_parameters(parameters: &ParameterMap) -> Option<Self> {
        match parameters.get("profile-level-id") {
            None => Some(Self::default()),
            Some(ParameterValue::Text(text)) => Self::parse(text),
            // An id of decimal digits only, taken for a number by whoever read the SDP.
            Some(ParameterValue::Integer(number)) => Self::parse(&format!("{number:06}")),
            Some(_) => None,
        }
    }
}

impl fmt::Display for ProfileLevelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (idc, flags) = match self.profile {
            H264Profile::ConstrainedBaseline => (0x42, 0xe0),
            H264Profile::Baseline => (0x42, 0x00),
            H264Profile::Main => (0x4d, 0x00),
            H264Profile::ConstrainedHigh => (0x64, 0x0c),
            H264Profile::High => (0x64, 0x00),
            H264Profile::PredictiveHigh444 => (0xf4, 0x00),
        };
        let flags = if self.level == H264Level::L1_B { flags | CONSTRAINT_SET3 } else { flags };
        write!(f, "{idc:02x}{flags:02x}{:02x}", self.level.idc())
    }
}

/// What both sides can decode: `None` where profiles differ or an id is wrong, `Some(None)` where neither side gave
/// an id. The level is the lower one, but `local`'s own where both allow levels to differ by direction.
pub(crate) fn answer(local: &ParameterMap, remote: &ParameterMap) -> Option<Option<ProfileLevelId>> {
    let ours = ProfileLevelId::of_parameters(local)?;
    let theirs = ProfileLevelId::of_parameters(remote)?;
    if ours.profile != theirs.profile {
        return None;
    }
    if !local.contains_key("profile-level-id") && !remote.contains_key("profile-level-id") {
        return Some(None);
    }
    let asymmetric = allows_level_asymmetry(local) && allows_level_asymmetry(remote);
    let level = if asymmetric { ours.level } else { ours.level.min(theirs.level) };
    Some(Some(ProfileLevelId { profile: ours.profile, level }))
}

fn allows_level_asymmetry(parameters: &ParameterMap) -> bool {
    parameters.get("level-asymmetry-allowed").and_then(ParameterValue::as_integer) == Some(1)
}

/// RFC 6184 table 5: the same profile hides behind several combinations of `profile_idc` and constraint flags.
fn profile(idc: u8, flags: u8) -> Option<H264Profile> {
    // (profile_idc, which flags count, their values)
    const PROFILES: [(u8, u8, u8, H264Profile); 9] = [
        (0x42, 0b0100_1111, 0b0100_0000, H264Profile::ConstrainedBaseline),
        (0x4d, 0b1000_1111, 0b1000_0000, H264Profile::ConstrainedBaseline),
        (0x58, 0b1100_1111, 0b1100_0000, H264Profile::ConstrainedBaseline),
        (0x42, 0b0100_1111, 0b0000_0000, H264Profile::Baseline),
        (0x58, 0b1100_1111, 0b1000_0000, H264Profile::Baseline),
        (0x4d, 0b1010_1111, 0b0000_0000, H264Profile::Main),
        (0x64, 0b1111_1111, 0b0000_0000, H264Profile::High),
        (0x64, 0b1111_1111, 0b0000_1100, H264Profile::ConstrainedHigh),
        (0xf4, 0b1111_1111, 0b0000_0000, H264Profile::PredictiveHigh444),
    ];
    PROFILES
        .iter()
        .find(|(known, mask, value, _)| *known == idc && flags & mask == *value)
        .map(|(.., profile)| *profile)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(pairs: &[(&str, &str)]) -> ParameterMap {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), ParameterValue::from(*value))).collect()
    }

    #[test]
    fn ids_are_read_and_written() {
        for (text, profile, level) in [
            ("42e01f", H264Profile::ConstrainedBaseline, 31),
            ("42001f", H264Profile::Baseline, 31),
            ("4d0032", H264Profile::Main, 50),
            ("640c1f", H264Profile::ConstrainedHigh, 31),
            ("640034", H264Profile::High, 52),
            ("f4001f", H264Profile::PredictiveHigh444, 31),
        ] {
            let id = ProfileLevelId::parse(text).unwrap();
            assert_eq!(id.profile, profile);
            assert_eq!(id.level, H264Level::from_idc(level).unwrap());
            assert_eq!(id.to_string(), text);
        }
        assert_eq!(ProfileLevelId::parse("42f00b").unwrap().level, H264Level::L1_B);
        assert_eq!(ProfileLevelId::parse("42f00b").unwrap().to_string(), "42f00b");
        assert_eq!(ProfileLevelId::parse("4D8032").unwrap().profile, H264Profile::ConstrainedBaseline);
        for wrong in ["", "42e01", "42e01f0", "42e0zz", "42e0ff", "ffe01f", "42e019é", "éééé"] {
            assert_eq!(ProfileLevelId::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_answer_has_the_lower_level_unless_asymmetry_is_allowed() {
        let low = parameters(&[("profile-level-id", "42e015")]);
        let high = parameters(&[("profile-level-id", "42e01f")]);
        assert_eq!(answer(&low, &high).unwrap().unwrap().to_string(), "42e015");
        assert_eq!(answer(&high, &low).unwrap().unwrap().to_string(), "42e015");
        let allowed = |id| parameters(&[("profile-level-id", id), ("level-asymmetry-allowed", "1")]);
        assert_eq!(answer(&allowed("42e01f"), &allowed("42e015")).unwrap().unwrap().to_string(), "42e01f");
        assert_eq!(answer(&ParameterMap::new(), &ParameterMap::new()), Some(None));
        assert_eq!(answer(&ParameterMap::new(), &low).unwrap().unwrap().to_string(), "42e015");
        assert_eq!(answer(&low, &parameters(&[("profile-level-id", "640c1f")])), None);
        assert_eq!(answer(&low, &parameters(&[("profile-level-id", "nonsense")])), None);
        let numeric = ParameterMap::from([("profile-level-id".to_owned(), ParameterValue::Integer(420_015))]);
        assert_eq!(answer(&numeric, &numeric).unwrap().unwrap().to_string(), "420015");
    }
}
