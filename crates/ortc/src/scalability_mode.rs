//! Names of layer structures, as W3C WebRTC-SVC has them (`L1T3`, `S3T3`, `L3T3_KEY`).

/// How many layers a stream has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScalabilityMode {
    /// Spatial layers, 1 to 99.
    pub spatial_layers: u8,
    /// Temporal layers, 1 to 99.
    pub temporal_layers: u8,
    /// Whether spatial layers depend on each other in key frames only.
    pub ksvc: bool,
}

impl Default for ScalabilityMode {
    fn default() -> Self {
        Self { spatial_layers: 1, temporal_layers: 1, ksvc: false }
    }
}

impl ScalabilityMode {
    /// Reads a mode's name. What is no mode has one layer of each sort, as in mediasoup.
    #[must_use]
    pub fn parse(name: &str) -> Self {
        Self::try_parse(name).unwrap_or_default()
    }

    fn try_parse(name: &str) -> Option<Self> {
        let rest = name.strip_prefix(['L', 'S'])?;
        let (spatial_layers, rest) = layer_count(rest)?;
        let (temporal_layers, rest) = layer_count(rest.strip_prefix('T')?)?;
        Some(Self { spatial_layers, temporal_layers, ksvc: rest.starts_with("_KEY") })
    }
}

/// One or two digits without a leading zero, and what follows them.
fn layer_count(text: &str) -> Option<(u8, &str)> {
    let digits = text.bytes().take(2).take_while(u8::is_ascii_digit).count();
    let (count, rest) = text.split_at_checked(digits)?;
    if count.starts_with('0') {
        return None;
    }
    Some((count.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_what_is_no_name_is_one_layer() {
        let mode = |name| {
            let ScalabilityMode { spatial_layers, temporal_layers, ksvc } = ScalabilityMode::parse(name);
            (spatial_layers, temporal_layers, ksvc)
        };
        assert_eq!(mode("L1T3"), (1, 3, false));
        assert_eq!(mode("S3T2h"), (3, 2, false));
        assert_eq!(mode("L3T2_KEY"), (3, 2, true));
        assert_eq!(mode("L3T2_KEY_SHIFT"), (3, 2, true));
        assert_eq!(mode("L20T31"), (20, 31, false));
        for nonsense in ["", "L", "L0T1", "L1T0", "T3", "L1", "M1T1", "L1T", "Lé", "1T1", "bogus"] {
            assert_eq!(mode(nonsense), (1, 1, false), "{nonsense}");
        }
    }
}
