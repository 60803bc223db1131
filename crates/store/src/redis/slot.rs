//! A Redis Cluster's slots: which one a key is in, and who has which.

use redis::Value;

use super::settings::Host;

/// The last slot.
pub(super) const LAST: u16 = 16_383;

/// The slot of a key: of what stands between its first braces, else of all of it.
pub(super) fn of(key: &str) -> u16 {
    let tag = key
        .split_once('{')
        .and_then(|(_, rest)| rest.split_once('}'))
        .map(|(tag, _)| tag)
        .filter(|tag| !tag.is_empty());
    crc16(tag.unwrap_or(key).as_bytes()) & LAST
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |mut crc, byte| {
        crc ^= u16::from(*byte) << 8;
        for _ in 0..8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
        }
        crc
    })
}

/// Reads an answer to `CLUSTER SLOTS`: first slot, last slot, master. A server that does not name its own address is
/// where it was asked. What cannot be read is left out: its slots have nobody until the next look.
pub(super) fn parse_map(value: &Value, asked: &str) -> Vec<(u16, u16, Host)> {
    let Value::Array(entries) = value else { return Vec::new() };
    entries
        .iter()
        .filter_map(|entry| {
            let Value::Array(entry) = entry else { return None };
            let [Value::Int(first), Value::Int(last), Value::Array(master), ..] = entry.as_slice() else {
                return None;
            };
            let [address, Value::Int(port), ..] = master.as_slice() else { return None };
            let name = match address {
                Value::BulkString(name) if !name.is_empty() && name != b"?" => {
                    String::from_utf8(name.clone()).ok()?
                }
                Value::BulkString(_) | Value::Nil => {
                    asked.rsplit_once(':')?.0.trim_matches(['[', ']']).to_owned()
                }
                _ => return None,
            };
            let slot = |number: &i64| u16::try_from(*number).ok().filter(|slot| *slot <= LAST);
            let port = u16::try_from(*port).ok().filter(|port| *port != 0)?;
            Some((slot(first)?, slot(last)?, Host { name, port }))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_fall_into_the_slots_that_redis_says() {
        // `CLUSTER KEYSLOT` of Redis 7.0.
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(of("room:a"), of("{room:a}:state"));
        assert_eq!(of("{}x"), crc16(b"{}x") & LAST);
        assert_eq!(of("foo"), 12_182);
        assert_eq!(of("{user1000}.following"), of("{user1000}.followers"));
    }

    #[test]
    fn a_map_is_read_whatever_is_wrong_with_it() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let server = |name: Value, port: i64| Value::Array(vec![name, Value::Int(port), text("id")]);
        let range = |first: i64, last: i64, master: Value| {
            Value::Array(vec![Value::Int(first), Value::Int(last), master])
        };
        let host = |name: &str, port| Host { name: name.to_owned(), port };
        let map = Value::Array(vec![
            range(0, 99, server(text("10.0.0.1"), 7000)),
            range(100, 199, server(Value::Nil, 7001)),
            range(200, 299, server(text(""), 7002)),
            range(300, 20_000, server(text("10.0.0.4"), 7003)),
            range(400, 499, server(text("10.0.0.5"), 0)),
            range(500, 599, Value::Nil),
            Value::Nil,
        ]);
        let found = parse_map(&map, "[::1]:7009");
        let wanted =
            [(0, 99, host("10.0.0.1", 7000)), (100, 199, host("::1", 7001)), (200, 299, host("::1", 7002))];
        assert_eq!(found, wanted);
        assert_eq!(parse_map(&Value::Nil, "h:1"), []);
    }
}
