//! One line of JSON → the bytes of one of its fields.
//!
//! Strings are taken as bytes, so that text that is not UTF-8 gets as far as the rule for such
//! text; everything but the field is skipped without being built.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

/// The field called `name` of the JSON object in `line`; the last one where it stands twice.
pub(super) fn field(line: &[u8], name: &str) -> Result<Vec<u8>, String> {
    let mut json = serde_json::Deserializer::from_slice(line);
    let value = json.deserialize_map(Record { name }).map_err(|error| described(&error))?;
    json.end().map_err(|error| described(&error))?;
    value.ok_or_else(|| format!("no field {name:?}; --text_field names the field with the text"))
}

/// serde's message; its own line is always 1 and says nothing.
fn described(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    match text.strip_suffix(&place) {
        Some(what) => format!("{what} at column {}", error.column()),
        None => text,
    }
}

struct Record<'n> {
    name: &'n str,
}

impl<'de> Visitor<'de> for Record<'_> {
    type Value = Option<Vec<u8>>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut value = None;
        while let Some(key) = map.next_key_seed(StringBytes)? {
            if key == self.name.as_bytes() {
                value = Some(map.next_value_seed(StringBytes)?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(value)
    }
}

struct StringBytes;

impl<'de> DeserializeSeed<'de> for StringBytes {
    type Value = Vec<u8>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<u8>, D::Error> {
        deserializer.deserialize_bytes(self)
    }
}

impl Visitor<'_> for StringBytes {
    type Value = Vec<u8>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a string")
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
        Ok(bytes.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::field;

    #[test]
    fn finds_the_field_among_others() {
        let line =
            br#"{"id": 7, "meta": {"text": "no"}, "text": "a\n\u00e9\ud83d\ude00", "z": [1]}"#;
        assert_eq!(field(line, "text").unwrap(), "a\né😀".as_bytes());
    }

    #[test]
    fn keeps_bytes_that_are_no_text() {
        assert_eq!(field(b"{\"\xff\": 1, \"text\": \"a\xffb\"}", "text").unwrap(), b"a\xffb");
    }

    #[test]
    fn says_what_is_wrong() {
        assert!(field(b"[1]", "text").unwrap_err().contains("a JSON object"));
        assert!(field(b"{\"text\": null}", "text").unwrap_err().contains("expected a string"));
        assert!(field(b"{\"body\": \"\"}", "text").unwrap_err().contains("--text_field"));
        assert!(field(b"{\"text\": \"a\"} x", "text").unwrap_err().contains("trailing"));
        assert!(field(b"{\"text\": \"a", "text").unwrap_err().contains("column"));
    }
}
