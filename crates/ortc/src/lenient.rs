//! Deserializers for what clients send where mediasoup's JavaScript does not look closely: `null` for an absent
//! field, list entries of a foreign shape, numbers with a fraction.

use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::Value;

/// `null` is read as the default.
pub(crate) fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Anything but `true` is read as `false`.
pub(crate) fn only_true<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(Value::deserialize(deserializer)? == Value::Bool(true))
}

/// Entries that are not a `T` are left out; anything but a list is an empty one.
pub(crate) fn known_entries<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    let Value::Array(entries) = Value::deserialize(deserializer)? else { return Ok(Vec::new()) };
    Ok(entries.into_iter().filter_map(|entry| T::deserialize(entry).ok()).collect())
}

/// A whole number of bits per second; a fraction is cut off, and what is no positive number is absent.
pub(crate) fn optional_bitrate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let whole = value.as_u64().or_else(|| {
        // Above 2^53 a double has no meaning as a bitrate; the cast saturates, it does not wrap.
        value.as_f64().filter(|bitrate| *bitrate >= 1.0).map(|bitrate| bitrate as u64)
    });
    Ok(whole.filter(|bitrate| *bitrate > 0))
}

/// An SSRC; zero and `null` are absent, as JavaScript's truth has it.
pub(crate) fn optional_ssrc<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    Ok(Option::<u32>::deserialize(deserializer)?.filter(|ssrc| *ssrc != 0))
}

/// A string; the empty one and `null` are absent, as JavaScript's truth has it.
pub(crate) fn optional_string<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty()))
}
